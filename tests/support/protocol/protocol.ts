/** Plays runs of the protocol over real sessions, and asks the invariants of docs/protocol.md after every step. */
import { act } from './acts.ts';
import { checkBetween } from './between.ts';
import type { Breakage } from './breakages.ts';
import { finish } from './finish.ts';
import { type Coverage, Stage } from './stage.ts';
import type { Step } from './steps.ts';

export async function openProtocol(url: string, breakage?: Breakage): Promise<Protocol> {
  const stage = new Stage(url, breakage);
  await stage.open(breakage?.sql);
  return new Protocol(stage);
}

export class Protocol {
  readonly #stage: Stage;

  constructor(stage: Stage) {
    this.#stage = stage;
  }

  get coverage(): Coverage {
    return this.#stage.coverage;
  }

  async close(): Promise<void> {
    await this.#stage.close();
  }

  /**
   * One run: the steps, then all that is open ends, and all that is due is done.
   * @throws Violation when an invariant does not hold.
   */
  async run(steps: readonly Step[]): Promise<void> {
    const stage = this.#stage;
    try {
      await stage.reset();
      for (const step of steps) {
        await act(stage, step);
        await stage.lookIfStale();
        await checkBetween(stage);
      }
      await finish(stage);
    } finally {
      await stage.abandon();
    }
  }
}
