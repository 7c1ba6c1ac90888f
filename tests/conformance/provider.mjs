// An OpenID certified provider on a loopback port: node provider.mjs PORT SECRET CERTIFICATE. Any login name is a user.
import { createPublicKey } from "node:crypto";
import { readFileSync } from "node:fs";
import Provider from "oidc-provider";

const [port, secret, certificate] = process.argv.slice(2);
const key = createPublicKey(readFileSync(certificate)).export({ format: "jwk" });
const client = (id, method) => ({
  client_id: id,
  ...(method === "none" ? {} : { client_secret: secret }),
  token_endpoint_auth_method: method,
  application_type: "native", // so that any port of the loopback redirect is accepted
  redirect_uris: ["http://127.0.0.1/callback"],
  grant_types: ["authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code"],
  response_types: ["code"],
});

const provider = new Provider(`http://127.0.0.1:${port}`, {
  clients: [
    client("basic", "client_secret_basic"),
    client("post", "client_secret_post"),
    client("none", "none"),
    { ...client("signing", "private_key_jwt"), client_secret: undefined, jwks: { keys: [key] } },
  ],
  claims: { openid: ["sub"], profile: ["preferred_username"] },
  findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id, preferred_username: id }) }),
  issueRefreshToken: (_, client) => client.grantTypeAllowed("refresh_token"),
  rotateRefreshToken: true,
  pkce: { required: () => true },
  ttl: { AccessToken: 300, RefreshToken: 1800 },
  features: {
    devInteractions: { enabled: true },
    deviceFlow: { enabled: true },
    dPoP: { enabled: true, nonceSecret: Buffer.alloc(32, 7), requireNonce: () => true },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => undefined,
      getResourceServerInfo: (_, resource) => ({ scope: "profile", audience: resource, accessTokenFormat: "jwt" }),
      useGrantedResource: () => false,
    },
    revocation: { enabled: true },
  },
});
provider.listen(Number(port), "127.0.0.1", () => console.log("listening"));
