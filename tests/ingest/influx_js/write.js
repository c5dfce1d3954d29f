// Writes three points with the official client, as its own examples do: node write.js URL TOKEN SITE DEVICE
import { InfluxDB, Point } from '@influxdata/influxdb-client'

const [url, token, site, device] = process.argv.slice(2)
const writer = new InfluxDB({ url, token }).getWriteApi('any org', 'any bucket', 'ms', { maxRetries: 0 })
writer.useDefaultTags({ site, device })
writer.writePoint(new Point('meter').floatField('power', 1.5).intField('energy', 10).timestamp(1767605400000))
writer.writePoint(new Point('meter').floatField('power', -2.25).uintField('energy', 11).timestamp(new Date(1767605401000)))
writer.writePoint(new Point('meter').booleanField('power', true).tag('not needed', 'a, b = c').timestamp(1767605402000))
// over a thousand bytes, which the client compresses
for (let n = 0; n < 100; n++) writer.writePoint(new Point('meter').floatField('many', n).timestamp(1767605400000 + n))
try {
  await writer.close()
  console.log('written')
} catch (error) {
  console.log(`${error.statusCode} ${error.code} ${error.message}`)
}
