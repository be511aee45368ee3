// Announces and scrapes with webtorrent's tracker client. Usage: webtorrent.mjs FOLDER URL INFO_HASH PORT LEFT
// Writes a line for each thing that it is told, as JSON; leaves and ends when its standard input ends.
import { pathToFileURL } from 'node:url'

const [folder, url, infoHash, port, left] = process.argv.slice(2)
const module = `${folder}/node_modules/bittorrent-tracker/client.js`
const { default: Client } = await import(pathToFileURL(module).href)
const say = (what, value) => console.log(JSON.stringify({ what, value }))
const client = new Client({
  infoHash,
  peerId: Buffer.from(`-XX0000-${port.padStart(12, '0')}`),
  announce: [url],
  port: Number(port),
  getAnnounceOpts: () => ({ left: Number(left), uploaded: 0, downloaded: 0 })
})
client.on('error', error => say('error', error.message))
client.on('warning', error => say('error', error.message))
client.on('peer', peer => say('peer', peer))
client.on('update', ({ complete, incomplete }) => {
  say('update', { complete, incomplete })
  client.scrape()
})
client.on('scrape', ({ complete, incomplete }) => say('scrape', { complete, incomplete }))
client.start()
process.stdin.on('end', () => {
  client.stop()
  client.destroy(() => process.exit(0))
})
process.stdin.resume()
