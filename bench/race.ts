/**
 * An attacker swaps a directory for a link to a victim, as fast as it can, while the file handler deletes what is in it; then
 * while a deletion by paths does: `npm run bench:race -- [seconds]`. The victim must not lose a file to the first, and does
 * to the second, or the attack would be none.
 */
import { Arena, deleteByPaths } from '../tests/handlers/file/attack.ts';
import { Disk } from '../tests/handlers/file/disk.ts';
import { machine } from './stage.ts';

const SECONDS = Number(process.argv[2] ?? 120);

const arena = new Arena(await Disk.create());
const { disk } = arena;
try {
  arena.restore();
  await arena.attack();
  const outcomes = new Map<string, number>();
  const count = (outcome: string) => outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
  let rounds = 0;
  for (const end = performance.now() + SECONDS * 1000; performance.now() < end; rounds += 1) {
    arena.restore();
    const cleanups = arena.paths.map(path => disk.cleanup(path));
    for (const { outcome } of await disk.handler.delete(cleanups, disk.context())) count(outcome);
    for (const path of ['t/swapped/deeper/', 't/swapped/', 't/']) count((await disk.delete(path)).outcome);
    if (arena.lost > 0) break;
  }
  const told = [...outcomes].map(([outcome, n]) => `${n} ${outcome}`).join(', ');
  console.log(`the file handler: ${rounds} rounds (${told}); the victim lost ${arena.lost} files`);
  if (arena.lost > 0 || !outcomes.has('dead')) process.exitCode = 1;
  arena.bringVictim();
  let naive = 0;
  let led = 0;
  for (const end = performance.now() + SECONDS * 100; performance.now() < end; naive += 1) {
    arena.restore();
    deleteByPaths(disk.at('t'));
    if (arena.lost === 0) continue;
    led += 1;
    arena.bringVictim();
  }
  console.log(`a deletion by paths: ${naive} rounds; in ${led} of them the victim lost files`);
  if (led === 0) process.exitCode = 1;
} finally {
  await arena.end();
  await disk.remove();
}
console.log(machine());
