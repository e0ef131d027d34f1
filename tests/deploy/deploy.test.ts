/** What is in deploy/ and the Dockerfile is held against the program: names of metrics, settings and SQL that exist. */
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { loadConfig } from '../../src/config.ts';
import { createMetrics } from '../../src/metrics.ts';
import { imageConfig, readDockerfile } from '../container/dockerfile.ts';
import { createDatabase } from '../support/database.ts';

const read = (path: string) => readFileSync(new URL(`../../${path}`, import.meta.url), 'utf8');
const image = imageConfig(readDockerfile(read('Dockerfile')));

interface Rule {
  readonly record?: string;
  readonly alert?: string;
  readonly expr: string;
  readonly labels?: Readonly<Record<string, string>>;
  readonly annotations?: Readonly<Record<string, string>>;
}

interface Alert extends Rule {
  readonly alert: string;
}

const rules = (parse(read('deploy/prometheus/alerts.yml')) as { groups: { rules: Rule[] }[] }).groups.flatMap(
  group => group.rules,
);
const alerts = rules.filter((rule): rule is Alert => rule.alert !== undefined);

/** The daemon's own metrics: name → its labels with the values that they have in the first scrape. */
async function exportedMetrics(): Promise<Map<string, Map<string, Set<string>>>> {
  const text = await createMetrics({ stores: ['s3://lab'], defaultMetrics: false }).text();
  const found = new Map<string, Map<string, Set<string>>>();
  for (const [, name = '', labels = ''] of text.matchAll(/^(\w+)(?:\{(.*)\})? \S+$/gm)) {
    const known = found.get(name) ?? new Map<string, Set<string>>();
    found.set(name, known);
    for (const [, label = '', value = ''] of labels.matchAll(/(\w+)="([^"]*)"/g)) {
      known.set(label, (known.get(label) ?? new Set()).add(value));
    }
  }
  return found;
}

describe('alerts.yml', () => {
  it('uses metrics, labels and label values that the daemon exports, and no others', async () => {
    const exported = await exportedMetrics();
    const recorded = rules.flatMap(rule => rule.record ?? []);
    let used = 0;
    for (const { expr } of rules) {
      // Label values first: they are no names.
      for (const [, name = '', matchers] of expr.matchAll(/([a-z]\w*:?[\w:]*)\s*(?:\{([^}]*)\})?/g)) {
        if (!/afterdelete/.test(name) || recorded.includes(name)) continue;
        used += 1;
        const labels = exported.get(name);
        expect(labels, `${name} in ${expr}`).toBeDefined();
        for (const [, label = '', value = ''] of (matchers ?? '').matchAll(/(\w+)\s*=~?\s*"([^"]*)"/g)) {
          for (const one of value.split('|'))
            expect([...(labels?.get(label) ?? [])], `${label} of ${name}`).toContain(one);
        }
      }
      const all = new Set([...exported.values()].flatMap(labels => [...labels.keys()]));
      for (const [, list = ''] of expr.matchAll(/\b(?:by|on|without|ignoring)\s*\(([^)]*)\)/g)) {
        // `instance` is Prometheus' own.
        for (const label of list.split(/\s*,\s*/).filter(label => label !== '' && label !== 'instance'))
          expect([...all], expr).toContain(label);
      }
    }
    expect(used).toBeGreaterThanOrEqual(alerts.length);
  });

  it.each(alerts)('$alert tells how bad it is, where, and with which SQL to look', ({ expr, ...alert }) => {
    expect(['info', 'warning', 'critical']).toContain(alert.labels?.severity);
    const { summary = '', description = '' } = alert.annotations ?? {};
    const kept = /by \(([^)]*)\)/.exec(expr)?.[1]?.split(/\s*,\s*/) ?? (/store:/.test(expr) ? ['store'] : []);
    for (const text of [summary, description]) {
      for (const label of kept.filter(label => label !== 'state'))
        expect(text).toContain(`{{ $labels.${label} }}`);
      for (const [, label = ''] of text.matchAll(/\$labels\.(\w+)/g)) expect(kept).toContain(label);
    }
    expect(description).toMatch(/SELECT [^;]*FROM afterdelete\.(stuck|backlog)\b[^;]*;/);
  });

  it('gives SQL that runs as it stands', async () => {
    const db = await createDatabase();
    for (const { annotations } of alerts) {
      const text = (annotations?.description ?? '').replaceAll('{{ $labels.store }}', 's3://lab');
      for (const [statement] of text.matchAll(/SELECT [^;]*;/g))
        await expect(db.sql(statement), statement).resolves.toEqual([]);
    }
  });

  it('has an alert for each way in which a store is paused', async () => {
    const ways = (await exportedMetrics()).get('afterdelete_store_paused')?.get('by') ?? [];
    for (const by of ways) expect(alerts.filter(({ expr }) => expr.includes(`by="${by}"`))).toHaveLength(1);
  });

  it('is seen quiet and firing in the unit tests, each alert of it', () => {
    const { tests } = parse(read('deploy/prometheus/alerts_test.yml')) as {
      tests: { alert_rule_test?: { alertname: string; exp_alerts: unknown[] }[] }[];
    };
    const played = tests.flatMap(test => test.alert_rule_test ?? []);
    for (const { alert } of alerts) {
      const counts = played
        .filter(({ alertname }) => alertname === alert)
        .map(test => test.exp_alerts.length);
      expect(counts, alert).toContain(0);
      expect(Math.max(...counts), alert).toBeGreaterThan(0);
    }
  });

  it('is explained in deploy/README.md, each alert of it', () => {
    for (const { alert } of alerts) expect(read('deploy/README.md')).toContain(`\`${alert}\``);
  });
});

describe('compose.yml', () => {
  interface Service {
    readonly image?: string;
    readonly environment?: Readonly<Record<string, string>>;
    readonly volumes?: readonly string[];
    readonly command?: readonly string[];
    readonly depends_on?: Readonly<Record<string, { condition: string }>>;
  }
  const compose = parse(read('deploy/compose.yml'), { merge: true }) as {
    services: Readonly<Record<string, Service>>;
    volumes: Readonly<Record<string, null>>;
  };
  const service = (name: string): Service => compose.services[name] ?? {};

  /** As compose does it, with no variable set. */
  function environment(name: string): Record<string, string> {
    const entries = Object.entries(service(name).environment ?? {});
    return Object.fromEntries(
      entries.map(([key, value]) => [key, value.replace(/\$\{\w+:-([^}]*)\}/g, '$1')]),
    );
  }

  it('gives the daemon settings that it knows', () => {
    const env = { ...image.env, ...environment('afterdelete') };
    const config = loadConfig({ env });
    expect(config.stores).toEqual(['file://', 's3://lab']);
    expect(config.http).toEqual({ host: '0.0.0.0', port: 9464 });
    const known = /^(DATABASE_URL|AFTERDELETE_|AWS_|NODE_ENV$)/;
    expect(Object.keys(env).filter(name => !known.test(name))).toEqual([]);
  });

  it('gives the migration the same database, and it comes first', () => {
    const { databaseUrl } = loadConfig({ env: environment('migrate'), requireRoots: false });
    expect(databaseUrl).toBe(loadConfig({ env: environment('afterdelete') }).databaseUrl);
    expect(service('migrate').command).toEqual(['migrate']);
    expect(service('afterdelete').depends_on?.migrate?.condition).toBe('service_completed_successfully');
  });

  it('gives Prometheus its configuration and the rules, where the configuration looks for them', () => {
    const mounts = service('prometheus').volumes ?? [];
    expect(mounts).toContain('./prometheus/prometheus.yml:/etc/prometheus/prometheus.yml:ro');
    expect(mounts).toContain('./prometheus/alerts.yml:/etc/prometheus/alerts.yml:ro');
    const config = parse(read('deploy/prometheus/prometheus.yml')) as {
      rule_files: string[];
      scrape_configs: { dns_sd_configs: { names: string[]; port: number }[] }[];
    };
    expect(config.rule_files).toEqual(['alerts.yml']);
    const [scraped] = config.scrape_configs.flatMap(scrape => scrape.dns_sd_configs);
    expect(Object.keys(compose.services)).toEqual(expect.arrayContaining(scraped?.names ?? ['nobody']));
    expect(scraped?.port).toBe(image.ports[0]);
  });

  it('waits for services that are there, and mounts volumes that are declared', () => {
    for (const { depends_on, volumes } of Object.values(compose.services)) {
      for (const name of Object.keys(depends_on ?? {})) expect(compose.services).toHaveProperty(name);
      for (const name of (volumes ?? []).map(volume => volume.split(':')[0] ?? ''))
        if (!name.startsWith('.')) expect(compose.volumes).toHaveProperty(name);
    }
  });
});

describe('Dockerfile', () => {
  it('serves on the port that it exposes, as an ordinary user', () => {
    expect(image.env.AFTERDELETE_HTTP).toBe(`0.0.0.0:${image.ports[0]}`);
    expect(image.ports).toEqual([9464]);
    expect(image.user).toMatch(/^[1-9]\d*:[1-9]\d*$/);
  });

  it('starts the command itself, so that signals reach it', () => {
    expect(image.entrypoint).toEqual(['node', '/app/dist/cli/main.js']);
    expect(image.cmd).toEqual(['run']);
  });
});
