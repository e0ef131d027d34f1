/** Ctrl-C and its kin, and a reader that goes away: the demo then ends early, but in good order. */
import { constants } from 'node:os';

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

export class Interruption {
  readonly #controller = new AbortController();
  /** The exit code, once somebody wants the demo to end. */
  code: number | undefined;
  /** Aborted at that moment. */
  readonly signal = this.#controller.signal;
  // What a shell makes of a signal.
  readonly #onSignal = (name: (typeof SIGNALS)[number]) => this.#interrupt(128 + constants.signals[name]);

  constructor() {
    for (const name of SIGNALS) process.on(name, this.#onSignal);
    // `npm run demo | head`: nobody reads on.
    process.stdout.on('error', () => {
      if (this.code === undefined) this.#interrupt(128 + constants.signals.SIGPIPE);
    });
  }

  /** Signals mean again what they meant before. */
  forget(): void {
    for (const name of SIGNALS) process.off(name, this.#onSignal);
  }

  #interrupt(code: number): void {
    // Asked twice, it does not insist on good order; what must be done is done at exit.
    if (this.code !== undefined) process.exit(code);
    this.code = code;
    if (code !== 128 + constants.signals.SIGPIPE) {
      process.stdout.write('\n   Interrupted: putting everything away …\n');
    }
    this.#controller.abort(new Error('the demo was interrupted'));
  }
}
