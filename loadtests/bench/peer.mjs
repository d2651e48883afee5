// The work of peers.py on fastify with pg: `node peer.mjs PORT`, with DSN, SECRET and MODULES (where node_modules is).
import { createHmac, timingSafeEqual } from "node:crypto";
import { createRequire } from "node:module";

const require = createRequire(`${process.env.MODULES}/`);
const fastify = require("fastify")();
const { Pool } = require("pg");

// A DSN with a Unix socket names no host before the database, which URL does not take.
const dsn = new URL(process.env.DSN.replace("@/", "@localhost/"));
const pool = new Pool({
  host: dsn.searchParams.get("host") ?? dsn.hostname,
  user: dsn.username,
  database: dsn.pathname.slice(1),
  max: 10,
});
const course = {
  name: "course",
  text:
    "SELECT id, creator_id, title, description, thumbnail_url, price, currency, is_free, status, created_at, updated_at" +
    " FROM courses WHERE id = $1",
};

function claims(header) {
  const [head, body, signature] = (header ?? "").replace("Bearer ", "").split(".");
  const right = createHmac("sha256", process.env.SECRET).update(`${head}.${body}`).digest();
  if (!timingSafeEqual(right, Buffer.from(signature, "base64url"))) throw new Error("not ours");
  const said = JSON.parse(Buffer.from(body, "base64url"));
  if (said.exp * 1000 < Date.now() || said.aud !== "lectern:api" || said.iss !== "lectern") throw new Error("not valid");
  return said;
}

fastify.get("/api/courses/:id", async (request) => {
  claims(request.headers.authorization);
  return (await pool.query({ ...course, values: [request.params.id] })).rows[0];
});

await fastify.listen({ host: "127.0.0.1", port: Number(process.argv[2]) });
