#!/usr/bin/env node
// Calls an API with a token from bearerd, and once more with a newer one if it is refused.
//
// usage: get_token.js URL [ACCOUNT]      needs Node 18 and dbus-next

const dbus = require("dbus-next");

const NAME = "org.bearerd.Broker1";

async function call(url, token) {
  const answer = await fetch(url, { headers: { Authorization: `Bearer ${token}` } });
  return answer.status;
}

async function main(url, account = "") {
  const bus = dbus.sessionBus();
  try {
    const object = await bus.getProxyObject(NAME, "/org/bearerd/Broker1");
    const broker = object.getInterface(NAME);
    let [token, , details] = await broker.GetToken(account);
    let status = await call(url, token);
    if (status === 401 && (await broker.RejectToken(account, details.token_id.value))) {
      [token, , details] = await broker.GetToken(account);
      status = await call(url, token);
    }
    console.log(status);
    return status === 200 ? 0 : 1;
  } catch (error) {
    // error.type is the name, for programs; the message is for people and ends with what to do.
    console.error(error.message);
    return 1;
  } finally {
    bus.disconnect();
  }
}

main(...process.argv.slice(2)).then((code) => process.exit(code));
