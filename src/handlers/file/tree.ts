/**
 * Deletes a tree: in storage calls of a fraction of a second, several directories at a time, each directory when it is
 * empty. What the calls do is in `walk.ts`; here is what is still to be done, and who does it.
 *
 * Directories are taken from a stack, deepest first, so that what is waiting stays small.
 */
import { availableParallelism } from 'node:os';
import { type Context, type Result, resultOf, Stopped, StorageError } from '../contract.ts';
import { Folder, type Name } from './folders.ts';
import type { Job } from './job.ts';
import { TreeMemory } from './memory.ts';
import {
  type Failure,
  failureOf,
  gravity,
  type Item,
  type Place,
  type Progress,
  type Share,
  UNTOUCHED,
  type WalkAnswer,
} from './orders.ts';
import { CALL_BUDGET } from './remove.ts';
import { ThreadFailure, type Threads, TREE_THREADS } from './threads.ts';

/** Directories that one call gets at most. */
const MOST_ITEMS = 64;

/**
 * Threads that share the files of one directory at most, where that is work for the CPU: each lists it, and more than there are
 * CPUs only get in each other's way.
 */
const MOST_SHARES = Math.max(2, availableParallelism());

/** From this time for an entry on, in ms, the disk is waited for, and all threads share. In memory it takes a third of it. */
const WAITS = 0.04;

/** How long the first call may take, in ms: it is among the small work, which a small tree is, too. */
const FIRST_BUDGET = 10;

/** How often it is asked whether the time slice has ended, in ms. */
const SLICE_CHECK = 10;

/** A directory of the tree on its way to be removed. */
interface Branch extends Progress {
  readonly folder: Folder;
  readonly up: Branch | undefined;
  /** Directories in it, or shares of it, that are not done with. */
  open: number;
  ended: boolean;
}

/** What a call can be given: a directory, or a share of its files. */
interface Ticket {
  readonly branch: Branch;
  readonly share?: Share;
  /** Of a share: files that could not be deleted. */
  readonly keptFiles: number;
  /** In a call: the place of the directory that it is in, if that waits for this one alone. */
  readonly up?: number;
}

/** Deletes what a target with a slash at its end names. */
export function deleteTree(job: Job, place: Place, threads: Threads, context: Context): Promise<Result> {
  return new TreeDeletion(job, place, threads, context).run();
}

class TreeDeletion {
  readonly #id: string;
  readonly #place: Place;
  readonly #threads: Threads;
  readonly #context: Context;
  readonly #memory = TreeMemory.for(TREE_THREADS);
  readonly #top: Branch;
  /** What is to be done next, at the end. */
  readonly #stack: Ticket[];
  readonly #freeLanes = Array.from({ length: TREE_THREADS }, (_, lane) => lane);
  /** No further storage call is begun. */
  #halted = false;
  #topIsGone = false;
  #early: Result | undefined;
  #failures = 0;
  #worst: Failure | undefined;

  constructor(job: Job, place: Place, threads: Threads, context: Context) {
    this.#id = job.cleanup.id;
    this.#place = place;
    this.#threads = threads;
    this.#context = context;
    this.#top = {
      ...UNTOUCHED,
      folder: new Folder(job.parent, job.name),
      up: undefined,
      open: 0,
      ended: false,
    };
    this.#stack = [{ branch: this.#top, keptFiles: 0 }];
  }

  async run(): Promise<Result> {
    // Calls are short, but a slice may end in the middle of one: it then stops before its next system call.
    const timer = setInterval(() => {
      if (this.#mustHalt()) this.#memory.stop();
    }, SLICE_CHECK);
    // The first call is among the small work, and gives away what threads for trees can take at once.
    this.#memory.idle = this.#threads.freeForTrees(this.#place.root);
    try {
      await this.#call(this.#take(), 0, true);
      this.#topIsGone ||= this.#early !== undefined;
      if (!this.#early) await new Promise<void>(resolve => this.#pump(resolve));
    } finally {
      clearInterval(timer);
    }
    // Absent: unless another thread had deleted it, and was ended before it could answer.
    return this.#early === undefined || this.#early.outcome === 'absent' ? this.#result() : this.#early;
  }

  #pump(finish: () => void): void {
    while (this.#freeLanes.length > 0 && this.#stack.length > 0 && !this.#mustHalt()) {
      const lane = this.#freeLanes.pop() as number;
      void this.#call(this.#take(), lane, false).finally(() => {
        this.#freeLanes.push(lane);
        this.#pump(finish);
      });
    }
    const idle = this.#freeLanes.length;
    this.#memory.idle = this.#stack.length === 0 ? idle : 0;
    if (idle === TREE_THREADS) finish();
  }

  /** A slice always removes something, or a tree could be begun again and again and never end. */
  #mustHalt(): boolean {
    if (!this.#halted && this.#memory.progressed && this.#context.shouldYield()) this.#halted = true;
    return this.#halted;
  }

  /** So many that all threads have some; with each, what waits for it alone. */
  #take(): Ticket[] {
    const share = Math.ceil(this.#stack.length / TREE_THREADS);
    const taken: Ticket[] = [];
    for (const ticket of this.#stack.splice(-Math.min(share, MOST_ITEMS))) {
      const chain = [ticket];
      let { up } = ticket.branch;
      while (!ticket.share && up?.open === 1 && up.phase === 'remove') {
        chain.push({ branch: up, keptFiles: 0 });
        up = up.up;
      }
      let place = -1;
      for (const one of chain.reverse()) place = taken.push({ ...one, up: place }) - 1;
    }
    return taken;
  }

  /** Never rejects: what goes wrong is noted. */
  async #call(tickets: readonly Ticket[], lane: number, first: boolean): Promise<void> {
    const order = {
      place: this.#place,
      items: tickets.map(itemOf),
      first,
      lane,
      memory: this.#memory.buffer,
      ms: first ? FIRST_BUDGET : CALL_BUDGET,
    };
    try {
      const answer = await this.#context.call(signal =>
        this.#threads.run(first ? 'quick' : 'trees', 'walk', order, {
          signal,
          stop: () => this.#memory.stop(),
        }),
      );
      this.#early = answer.early;
      this.#accept(answer, tickets);
    } catch (error) {
      this.#noteThrown(error);
    }
    const { receipt } = this.#memory;
    if (receipt.objects > 0) this.#context.progress(this.#id, receipt);
  }

  #accept({ left, ended, failures, worst, pace }: WalkAnswer, tickets: readonly Ticket[]): void {
    this.#failures += failures;
    if (worst) this.#weigh(worst);
    const next = new Set<Branch>();
    for (const { item, keptFiles, spoiled } of ended) {
      const { branch, share, up = -1 } = tickets[item] as Ticket;
      if (share) {
        branch.keptFiles += keptFiles;
        branch.spoiled ||= spoiled;
        branch.open -= 1;
        next.add(branch);
      } else {
        this.#end(branch, spoiled, up >= 0);
        if (branch.up) next.add(branch.up);
      }
    }
    const branches: Branch[] = [];
    for (const { item, up, name, ...progress } of left) {
      const ticket = tickets[item];
      if (ticket?.share) {
        // Nothing is below a share: its place is never asked for.
        branches.push(ticket.branch);
        ticket.branch.spoiled ||= progress.spoiled;
        this.#stack.push({ ...ticket, keptFiles: progress.keptFiles });
        continue;
      }
      const branch = ticket ? Object.assign(ticket.branch, progress) : below(branches[up], name, progress);
      branches.push(branch);
      next.add(branch);
    }
    for (const branch of next) {
      if (branch.open === 0 && !branch.ended) this.#goOnWith(branch, tickets, pace);
    }
  }

  /** @param told whether what it is in has been told by the thread that ended it. */
  #end(branch: Branch, spoiled: boolean, told: boolean): void {
    branch.ended = true;
    const { up } = branch;
    if (!up) {
      this.#topIsGone = !spoiled;
      return;
    }
    up.open -= 1;
    if (!spoiled || told) return;
    up.spoiled = true;
    up.keptFolders += 1;
  }

  /**
   * A directory that took a whole call and is not done is shared out, when there is nothing else to do: the kernel unlinks
   * in one directory one by one, but looking at the files and giving their blocks back goes side by side.
   */
  #goOnWith(branch: Branch, before: readonly Ticket[], pace: number): void {
    const begun = before.some(ticket => ticket.branch === branch && !ticket.share);
    if (branch.phase !== 'list' || !begun || this.#stack.length > 0) {
      this.#stack.push({ branch, keptFiles: 0 });
      return;
    }
    const of = Math.min(this.#freeLanes.length + 1, pace < WAITS ? MOST_SHARES : TREE_THREADS);
    const after = branch.keptFiles;
    branch.open = of;
    for (let n = 0; n < of; n += 1) this.#stack.push({ branch, share: { n, of, after }, keptFiles: 0 });
  }

  #noteThrown(error: unknown): void {
    this.#halted = true;
    if (error instanceof Stopped) return;
    this.#failures += 1;
    if (error instanceof ThreadFailure) this.#weigh(error.failure);
    else if (error instanceof StorageError) this.#weigh(failureOf(error, '', ''));
    else this.#weigh({ kind: 'transient', message: `could not delete: ${String(error)}`, storeDown: true });
  }

  #weigh(failure: Failure): void {
    if (!this.#worst || gravity(failure) > gravity(this.#worst)) this.#worst = failure;
    if (isFinal(failure)) this.#halted = true;
  }

  #result(): Result {
    const { receipt, progressed } = this.#memory;
    if (this.#topIsGone) return { ...receipt, outcome: progressed ? 'deleted' : 'absent' };
    const worst = this.#worst;
    if (!worst || (this.#halted && !isFinal(worst))) {
      return { ...receipt, outcome: 'yielded', progressed };
    }
    const others = this.#failures - 1;
    const message =
      others > 0 ? `${worst.message} (and ${others} more like it or less grave)` : worst.message;
    return resultOf(new StorageError(worst.kind, message), receipt);
  }
}

/** Nothing else can be expected to work. */
function isFinal({ kind, storeDown }: Failure): boolean {
  return storeDown || kind === 'wrong_root';
}

function below(up: Branch | undefined, name: Name, progress: Progress): Branch {
  if (!up) throw new Error('a directory was found in none: a bug');
  up.open += 1;
  return { ...progress, folder: new Folder(up.folder, name), up, open: 0, ended: false };
}

function itemOf({ branch, share, keptFiles, up = -1 }: Ticket): Item {
  const { folder, up: _, open: __, ended: ___, ...progress } = branch;
  const item = { ...progress, up, address: up < 0 ? folder.address() : [folder.name] };
  return share ? { ...item, share, keptFiles, spoiled: keptFiles > 0 } : item;
}
