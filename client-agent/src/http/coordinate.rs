//! `/v1/coordinate/*`.

use causeway_proto::coordinate::coordinates_client::CoordinatesClient;
use causeway_proto::coordinate::{
    Coordinate, DatacentersRequest, ListNodesRequest, NodeCoordinate, NodeRequest, UpdateRequest,
};
use http::StatusCode;
use serde::{Serialize, Serializer};

use super::decode::{self, DecodeError, Fields};
use super::dispatch::{Call, ask, read};
use super::failure::Failure;
use super::render::Seq;
use super::reply::Reply;

/// A number as Go writes it: whole ones without a point.
#[derive(Clone, Copy)]
struct Number(f64);

impl Serialize for Number {
    #[allow(clippy::cast_possible_truncation, reason = "checked before")]
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if self.0.fract() == 0.0 && self.0.abs() < 1e15 {
            s.serialize_i64(self.0 as i64)
        } else {
            s.serialize_f64(self.0)
        }
    }
}

/// A coordinate as Consul shows it.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct CoordinateJson {
    vec: Vec<Number>,
    error: Number,
    adjustment: Number,
    height: Number,
}

impl CoordinateJson {
    pub(crate) fn new(coord: &Coordinate) -> Self {
        Self {
            vec: coord.vec.iter().copied().map(Number).collect(),
            error: Number(coord.error),
            adjustment: Number(coord.adjustment),
            height: Number(coord.height),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct NodeJson<'a> {
    node: &'a str,
    segment: &'a str,
    coord: Option<CoordinateJson>,
}

impl<'a> NodeJson<'a> {
    fn new(node: &'a NodeCoordinate) -> Self {
        Self { node: &node.node, segment: &node.segment, coord: node.coord.as_ref().map(CoordinateJson::new) }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct SiteJson<'a> {
    datacenter: &'a str,
    #[serde(rename = "AreaID")]
    area_id: &'static str,
    coordinates: Vec<NodeJson<'a>>,
}

/// Refuses where this agent takes no part.
fn enabled(call: &Call<'_>) -> Result<(), Failure> {
    match call.ctx.members.coordinate() {
        Some(_) => Ok(()),
        None => Err(Failure::new(StatusCode::UNAUTHORIZED, "Coordinate support disabled")),
    }
}

/// `/v1/coordinate/datacenters`: where the sites are, by the round trips between their gateways. `dc` is not looked at.
pub(crate) async fn datacenters(call: &Call<'_>) -> Result<Reply, Failure> {
    enabled(call)?;
    let meta = causeway_proto::meta::Meta { datacenter: None, ..call.meta()? };
    let (reply, _) = ask!(call, meta, CoordinatesClient<_>, datacenters, DatacentersRequest {})?;
    call.json(&Seq(reply.sites.iter().map(|site| SiteJson {
        datacenter: &site.datacenter,
        area_id: "wan",
        coordinates: site.servers.iter().map(NodeJson::new).collect(),
    })))
}

/// Whether a coordinate is of the segment that is asked for, where one is.
fn in_segment(call: &Call<'_>, node: &NodeCoordinate) -> bool {
    !call.params.has("segment") || call.params.get("segment") == node.segment
}

/// `/v1/coordinate/nodes`.
pub(crate) async fn nodes(call: &Call<'_>) -> Result<Reply, Failure> {
    enabled(call)?;
    let mut options = call.options()?;
    let (reply, answer) = read!(call, &mut options, CoordinatesClient<_>, list_nodes, ListNodesRequest {})?;
    let shown = reply.nodes.iter().filter(|node| in_segment(call, node)).map(NodeJson::new);
    Ok(call.json(&Seq(shown))?.meta(&answer))
}

/// `/v1/coordinate/node/NAME`: 404 where nothing is known of it.
pub(crate) async fn node(call: &Call<'_>) -> Result<Reply, Failure> {
    enabled(call)?;
    let mut options = call.options()?;
    let request = NodeRequest { node: call.rest.clone() };
    let (reply, answer) = read!(call, &mut options, CoordinatesClient<_>, node, request)?;
    let found: Vec<_> = reply.nodes.iter().filter(|node| in_segment(call, node)).map(NodeJson::new).collect();
    if found.is_empty() {
        return Ok(Reply::empty().status(StatusCode::NOT_FOUND));
    }
    Ok(call.json(&found)?.meta(&answer))
}

fn undecoded(error: DecodeError) -> Failure {
    Failure::bad(format!("Request decode failed: {error}"))
}

pub(super) fn decoded(f: &Fields<'_>) -> Result<NodeCoordinate, DecodeError> {
    f.only(&["Datacenter", "Node", "Segment", "Coord", "Token", "Partition"])?;
    let coord = |f: Fields<'_>| {
        f.only(&["Vec", "Error", "Adjustment", "Height"])?;
        let vec = f.list("Vec")?.iter().map(|value| decode::float(value, "Coord.Vec")).collect::<Result<_, _>>()?;
        let number = |name| f.get(name).map_or(Ok(0.0), |value| decode::float(value, name));
        Ok::<_, DecodeError>(Coordinate {
            vec,
            error: number("Error")?,
            adjustment: number("Adjustment")?,
            height: number("Height")?,
        })
    };
    Ok(NodeCoordinate {
        node: f.text("Node")?,
        segment: f.text("Segment")?,
        coord: f.object("Coord")?.map(coord).transpose()?,
    })
}

/// `PUT /v1/coordinate/update`: for nodes that no agent runs on.
pub(crate) async fn update(call: &Call<'_>) -> Result<Reply, Failure> {
    enabled(call)?;
    let value = decode::parse(&call.body).map_err(undecoded)?;
    let fields = Fields::of(&value, false).map_err(undecoded)?;
    let update = decoded(&fields).map_err(undecoded)?;
    let named = match call.params.get("dc") {
        "" => fields.text("Datacenter").map_err(undecoded)?,
        dc => dc.to_owned(),
    };
    let mut meta = call.meta()?;
    meta.datacenter = super::query::datacenter(&named, &call.ctx.info.datacenter)?;
    ask!(call, meta, CoordinatesClient<_>, update, UpdateRequest { update: Some(update) })?;
    Ok(Reply::empty())
}
