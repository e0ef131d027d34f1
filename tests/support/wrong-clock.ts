/**
 * Preloaded into a daemon (`node --import`): its clock is wrong by so many milliseconds (`WRONG_CLOCK`), and by as many in the
 * other direction after SIGUSR2. Timers and `performance.now()` run on, as they do when a machine's clock is set.
 */
const RightDate = Date;
let error = Number(process.env.WRONG_CLOCK);
process.on('SIGUSR2', () => {
  error = -error;
});

globalThis.Date = class extends RightDate {
  constructor(...given: unknown[]) {
    if (given.length === 0) super(RightDate.now() + error);
    else super(...(given as [string]));
  }

  static override now(): number {
    return RightDate.now() + error;
  }
} as DateConstructor;
