//! Remote execution, where the configuration allows it.

use causeway_agent::events::Events;
use causeway_agent::exec::{World, serve};
use causeway_proto::door::Door;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::options::plan::Plan;
use crate::options::table as t;

/// Takes jobs from now on, unless they are left alone. `door` shows the agent's token to the servers.
pub fn start(plan: &Plan, door: Door, events: &Events, stop: &CancellationToken, tasks: &TaskTracker) {
    let s = &plan.settings;
    if s.on(&t::DISABLE_REMOTE_EXEC) {
        return;
    }
    tracing::warn!("disable_remote_exec is false: who may write keys and fire events runs anything here");
    let world = World { door, node: plan.node_name.clone() };
    tasks.spawn(serve(world, events.calls(), stop.clone()));
}
