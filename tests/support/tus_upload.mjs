// Uploads a file by tus-js-client to an address that was made for it: `node tus_upload.mjs FILE URL CHUNK_BYTES`.
// Says how far it is, one number of bytes a line. Ends with status 0 when all has arrived.
import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import tus from "tus-js-client";

const [file, uploadUrl, chunkBytes] = process.argv.slice(2);
const upload = new tus.Upload(createReadStream(file), {
  uploadUrl,
  chunkSize: Number(chunkBytes),
  uploadSize: (await stat(file)).size,
  retryDelays: [100, 500, 1000, 1000, 1000, 2000, 2000, 3000, 3000, 3000],
  onProgress: (sent) => console.log(sent),
  onError: (error) => {
    console.error(String(error));
    process.exit(1);
  },
  onSuccess: () => process.exit(0),
});
upload.start();
