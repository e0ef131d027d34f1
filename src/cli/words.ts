/** Numbers and times as people read them, and text as a terminal may show it. */
import { quoteTarget } from '../target.ts';

const UNITS: readonly [seconds: number, unit: string][] = [
  [86_400, 'd'],
  [3_600, 'h'],
  [60, 'm'],
  [1, 's'],
];

/** Seconds in their two largest units: `3d 4h`, `12m 5s`, `0s`. */
export function duration(seconds: number): string {
  const whole = Math.max(0, Math.floor(seconds));
  const start = UNITS.findIndex(([size]) => whole >= size);
  if (start < 0) return '0s';
  let rest = whole;
  const parts = UNITS.slice(start, start + 2).map(([size, unit]) => {
    const n = Math.floor(rest / size);
    rest %= size;
    return n > 0 ? `${n}${unit}` : '';
  });
  return parts.filter(part => part !== '').join(' ');
}

const SIZES = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];

/** `0 B`, `1.5 KiB`, `161 GiB`. */
export function bytes(count: number): string {
  let size = 0;
  let value = count;
  while (value >= 1024 && size < SIZES.length - 1) {
    value /= 1024;
    size += 1;
  }
  return `${size === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${SIZES[size]}`;
}

/** `1 object`, `2 objects`. */
export function counted(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? '' : 's'}`;
}

/** A moment, to the second, in UTC. */
export function moment(date: Date): string {
  return `${date.toISOString().slice(0, 19).replace('T', ' ')}Z`;
}

/**
 * Text from a row on one line of a terminal, which would obey control characters: whoever may write a row could
 * otherwise paint over what stands beside it.
 */
export function plain(text: string): string {
  return text.replace(
    // biome-ignore lint/suspicious/noControlCharactersInRegex: finding control characters is what it is for
    /[\u0000-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069]/g,
    character => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}

/** A target as it may stand on a terminal: in quotes, and nothing in it is obeyed. */
export function shown(target: string): string {
  return plain(quoteTarget(target));
}

/** Lines of a table: columns as wide as their widest cell, numbers to the right, nothing behind the last. */
export function table(header: readonly string[], rows: readonly (readonly (string | number)[])[]): string[] {
  const all = [header, ...rows.map(row => row.map(String))];
  const widths = header.map((_, column) => Math.max(...all.map(row => (row[column] ?? '').length)));
  const numeric = header.map(
    (_, column) => rows.length > 0 && rows.every(row => typeof row[column] === 'number'),
  );
  return all.map(row =>
    row
      .map((cell, column) =>
        numeric[column] ? cell.padStart(widths[column] ?? 0) : cell.padEnd(widths[column] ?? 0),
      )
      .join('  ')
      .trimEnd(),
  );
}
