// Loaded into Rocket.Chat's process before anything else (NODE_OPTIONS in compose.yaml): Rocket.Chat reads these two from
// its environment only, and a secret in compose.yaml would stand in `docker inspect`.

import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

const dir = process.env.ROCKETCHAT_SECRETS || '/run/secrets/rocketchat';
for (const [variable, file] of [
  ['ADMIN_PASS', 'admin-password'],
  ['CREATE_TOKENS_FOR_USERS_SECRET', 'create-token-secret'],
]) {
  const path = join(dir, file);
  if (process.env[variable]) continue;
  if (!existsSync(path)) throw new Error(`${path} is missing: the service "secrets" makes it, see its log`);
  process.env[variable] = readFileSync(path, 'utf8').trim();
}
