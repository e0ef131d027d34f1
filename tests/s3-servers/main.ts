/** Starts the real S3 servers and leaves them running until Ctrl-C: `npm run s3:servers -- [name…]`. */
import { hasGo } from './build.ts';
import { SERVERS, type ServerName, startRealServer } from './start.ts';

if (!hasGo()) {
  console.error('s3:servers: there is no Go toolchain on the PATH to build them with');
  process.exit(1);
}
const asked = process.argv.slice(2);
const unknown = asked.find(name => !SERVERS.includes(name as ServerName));
if (unknown !== undefined) {
  console.error(`s3:servers: expected names out of ${SERVERS.join(', ')}, got ${unknown}`);
  process.exit(2);
}
const names = asked.length > 0 ? (asked as ServerName[]) : SERVERS;
const servers = await Promise.all(names.map(name => startRealServer(name)));
for (const { name, endpoint, accessKeyId, secretAccessKey } of servers) {
  console.log(
    `${name}: S3_ENDPOINT=${endpoint} AWS_ACCESS_KEY_ID=${accessKeyId} AWS_SECRET_ACCESS_KEY=${secretAccessKey}`,
  );
}
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.once(signal, () => {
    void Promise.all(servers.map(server => server.stop())).then(() => process.exit(0));
  });
}
