/** Memory that the daemon's thread shares with those that delete: the one says stop, the others tell what is gone. */
import type { Receipt } from '../contract.ts';
import type { Stop } from './remove.ts';

/** Bytes before the numbers: whether to stop, and how many threads have nothing to do. */
const HEAD = 8;

abstract class Shared {
  readonly buffer: SharedArrayBuffer;
  readonly #head: Int32Array;
  protected readonly numbers: Float64Array;

  constructor(memory: SharedArrayBuffer | number) {
    this.buffer = typeof memory === 'number' ? new SharedArrayBuffer(HEAD + memory * 8) : memory;
    this.#head = new Int32Array(this.buffer, 0, 2);
    this.numbers = new Float64Array(this.buffer, HEAD);
  }

  /** Nothing more may be deleted: asked before each system call that would. */
  readonly stopped: Stop = () => Atomics.load(this.#head, 0) !== 0;

  stop(): void {
    Atomics.store(this.#head, 0, 1);
  }

  /** Threads of a tree that have nothing to do. */
  get idle(): number {
    return Atomics.load(this.#head, 1);
  }

  set idle(threads: number) {
    Atomics.store(this.#head, 1, threads);
  }
}

/** Of single files: the bytes that each has freed. */
export class SinglesMemory extends Shared {
  static for(files: number): SinglesMemory {
    return new SinglesMemory(files);
  }

  freed(n: number, bytes: number): void {
    // One more, because nothing freed is not the same as nothing deleted.
    this.numbers[n] = bytes + 1;
  }

  /** Undefined when it was not deleted. */
  bytesOf(n: number): number | undefined {
    const told = this.numbers[n] ?? 0;
    return told === 0 ? undefined : told - 1;
  }
}

const OBJECTS = 0;
const BYTES = 1;
const FOLDERS = 2;
const OF_LANE = 3;

/** Of a tree: what each of its threads has deleted. Each counts for itself, so that none has to wait. */
export class TreeMemory extends Shared {
  static for(lanes: number): TreeMemory {
    return new TreeMemory(lanes * OF_LANE);
  }

  countFile(lane: number, bytes: number): void {
    this.#add(lane * OF_LANE + OBJECTS, 1);
    this.#add(lane * OF_LANE + BYTES, bytes);
  }

  countFolder(lane: number): void {
    this.#add(lane * OF_LANE + FOLDERS, 1);
  }

  get receipt(): Receipt & { readonly bytes: number } {
    return { objects: this.#sum(OBJECTS), bytes: this.#sum(BYTES) };
  }

  /** Whether anything was removed: files, links or directories. */
  get progressed(): boolean {
    return this.#sum(OBJECTS) + this.#sum(FOLDERS) > 0;
  }

  #add(at: number, more: number): void {
    this.numbers[at] = (this.numbers[at] ?? 0) + more;
  }

  #sum(what: number): number {
    let sum = 0;
    for (let at = what; at < this.numbers.length; at += OF_LANE) sum += this.numbers[at] ?? 0;
    return sum;
  }
}
