// Holds the custom resources on standard input (a JSON list) to their schemas. Exits with 1 and a line for each problem.
import { readFileSync } from 'node:fs';
import { HTTPRoute } from '@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1/HTTPRoute';
import { ServiceMonitor } from '@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/ServiceMonitor';

const models = { HTTPRoute, ServiceMonitor };
let bad = 0;
for (const resource of JSON.parse(readFileSync(0, 'utf8'))) {
  const Model = models[resource.kind];
  try {
    if (!Model) throw new Error('there is no schema for this kind');
    new Model(resource).validate();
  } catch (error) {
    bad += 1;
    console.error(`${resource.kind} ${resource.metadata?.name}: ${error.message}`);
  }
}
process.exit(bad ? 1 : 0);
