//! Which instances answer a query.

use std::sync::Arc;

use causeway_proto::catalog::ServiceHealth;
use causeway_proto::query::ServiceQuery;
use rand::Rng;
use rand::seq::SliceRandom;

/// The instances that a query wants, shuffled.
pub(crate) fn select(
    query: &ServiceQuery,
    mut instances: Vec<Arc<ServiceHealth>>,
    rng: &mut impl Rng,
) -> Vec<Arc<ServiceHealth>> {
    instances.retain(|instance| wanted(query, instance));
    instances.shuffle(rng);
    instances
}

/// How far down a node's own instance is looked for: sorted by distance it is never further.
const DEEP: usize = 10;

/// Puts an instance on the node itself before others that are as near, as Consul does.
pub(crate) fn itself_first(instances: &mut [Arc<ServiceHealth>], node: &str) {
    let own = |i: &Arc<ServiceHealth>| i.node.as_ref().is_some_and(|n| n.name.eq_ignore_ascii_case(node));
    if let Some(at) = instances.iter().take(DEEP).position(own) {
        instances.swap(0, at);
    }
}

/// Keeps so many; 0 or less: all.
pub(crate) fn limit(instances: &mut Vec<Arc<ServiceHealth>>, most: i64) {
    if let Ok(most @ 1..) = usize::try_from(most) {
        instances.truncate(most);
    }
}

fn wanted(query: &ServiceQuery, instance: &ServiceHealth) -> bool {
    let (Some(node), Some(service)) = (&instance.node, &instance.service) else { return false };
    let ignored = |id: &str| query.ignore_check_ids.as_ref().is_some_and(|list| list.values.iter().any(|i| i == id));
    let healthy = |status: &str| status == "passing" || (!query.only_passing && status != "critical");
    let has_tag = |tag: &str| service.tags.iter().any(|t| t.eq_ignore_ascii_case(tag));
    let fits = |tag: &String| match tag.strip_prefix('!') {
        Some(tag) => !has_tag(tag),
        None => has_tag(tag),
    };
    instance.checks.iter().all(|check| ignored(&check.id) || healthy(&check.status))
        && query.node_meta.iter().flat_map(|map| &map.values).all(|(k, v)| node.meta.get(k) == Some(v))
        && query.service_meta.iter().flat_map(|map| &map.values).all(|(k, v)| service.meta.get(k) == Some(v))
        && query.tags.iter().flat_map(|list| &list.values).all(fits)
}
