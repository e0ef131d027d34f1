import { afterdelete } from './afterdelete.ts';
import { boss } from './boss.ts';
import type { Contestant } from './contestant.ts';
import { graphile } from './graphile.ts';

export const CONTESTANTS = { afterdelete, graphile, boss } as const satisfies Record<string, Contestant>;

export type Name = keyof typeof CONTESTANTS;
