//! What filters can select on each list: the fields of its entries, as Consul names them.

/// What a selector can point at.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Shape {
    Text,
    Int,
    Bool,
    List(&'static Shape),
    Map(&'static Shape),
    Fields(&'static [(&'static str, Shape)]),
}

use Shape::{Bool, Fields, Int, List, Map, Text};

const WEIGHTS: Shape = Fields(&[("Passing", Int), ("Warning", Int)]);
const ADDRESSES: Shape = Map(&Fields(&[("Address", Text), ("Port", Int)]));
/// A node.
pub(crate) const NODE: Shape = Fields(&[
    ("ID", Text),
    ("Node", Text),
    ("Address", Text),
    ("Datacenter", Text),
    ("TaggedAddresses", Map(&Text)),
    ("Meta", Map(&Text)),
]);
/// A service instance, as the catalog and the agent list it.
pub(crate) const SERVICE: Shape = Fields(&[
    ("Kind", Text),
    ("ID", Text),
    ("Service", Text),
    ("Tags", List(&Text)),
    ("Address", Text),
    ("TaggedAddresses", ADDRESSES),
    ("Meta", Map(&Text)),
    ("Port", Int),
    ("Weights", WEIGHTS),
    ("EnableTagOverride", Bool),
]);
/// A check.
pub(crate) const CHECK: Shape = Fields(&[
    ("Node", Text),
    ("CheckID", Text),
    ("Name", Text),
    ("Status", Text),
    ("Notes", Text),
    ("Output", Text),
    ("ServiceID", Text),
    ("ServiceName", Text),
    ("ServiceTags", List(&Text)),
    ("Type", Text),
    (
        "Definition",
        Fields(&[
            ("HTTP", Text),
            ("TLSSkipVerify", Bool),
            ("Header", Map(&List(&Text))),
            ("Method", Text),
            ("Body", Text),
            ("TCP", Text),
        ]),
    ),
]);
/// An entry of `health/service`.
pub(crate) const SERVICE_HEALTH: Shape = Fields(&[("Node", NODE), ("Service", SERVICE), ("Checks", List(&CHECK))]);
/// An entry of `catalog/service`.
pub(crate) const SERVICE_NODE: Shape = Fields(&[
    ("ID", Text),
    ("Node", Text),
    ("Address", Text),
    ("Datacenter", Text),
    ("TaggedAddresses", Map(&Text)),
    ("NodeMeta", Map(&Text)),
    ("ServiceKind", Text),
    ("ServiceID", Text),
    ("ServiceName", Text),
    ("ServiceTags", List(&Text)),
    ("ServiceAddress", Text),
    ("ServiceTaggedAddresses", ADDRESSES),
    ("ServiceWeights", WEIGHTS),
    ("ServiceMeta", Map(&Text)),
    ("ServicePort", Int),
    ("ServiceEnableTagOverride", Bool),
]);
