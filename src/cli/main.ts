#!/usr/bin/env node
/**
 * Where the command begins: looks at Node's version before anything is loaded that an old one cannot parse, so that
 * people read what to do instead of a SyntaxError.
 */
const OLDEST = [22, 18] as const;

const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
if (major < OLDEST[0] || (major === OLDEST[0] && minor < OLDEST[1])) {
  console.error(
    `afterdelete needs Node ${OLDEST.join('.')} or newer; this is ${process.version}. In a checkout, \`npx afterdelete\` uses the one that \`npm ci\` brought.`,
  );
  process.exitCode = 2;
} else {
  await import('./program.ts');
}

export {};
