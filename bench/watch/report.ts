/** Contestants in turn, medians, and one line each. */
import { percentile } from '../stage.ts';

export const median = (samples: readonly number[]) => percentile(samples, 0.5);

/** Measures each contestant once a round, in another order each time; the first round warms up. */
export async function times<Name extends string>(
  names: readonly Name[],
  rounds: number,
  measure: (name: Name) => Promise<number>,
): Promise<Record<Name, number[]>> {
  const samples = Object.fromEntries(names.map(name => [name, [] as number[]])) as Record<Name, number[]>;
  for (let round = 0; round <= rounds; round++) {
    const order = [...names.slice(round % names.length), ...names.slice(0, round % names.length)];
    for (const name of order) {
      const sample = await measure(name);
      if (round > 0) samples[name].push(sample);
    }
  }
  return samples;
}

export interface Line {
  readonly what: string;
  readonly result: string;
  /** By contestant. */
  readonly samples: Readonly<Record<string, readonly number[]>>;
  readonly unit: string;
  readonly digits?: number;
}

/** The result first, then the medians that it was made of and how far the samples lie apart. */
export function line({ what, result, samples, unit, digits = 0 }: Line): void {
  const raw = Object.entries(samples).map(([name, values]) => {
    const [low, middle, high] = [0.1, 0.5, 0.9].map(share => percentile(values, share).toFixed(digits));
    return `${name} ${middle} ${unit} (${low} to ${high})`;
  });
  const [count] = Object.values(samples).map(values => values.length);
  console.log(`${what}: ${result}; medians of ${count}: ${raw.join(', ')}`);
}
