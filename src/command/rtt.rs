//! `rtt`: the round trip between two nodes, by their network coordinates. Words and exit codes are Consul's.

use std::process::ExitCode;

use causeway_proto::coordinate::Coordinate;
use causeway_proto::vivaldi;
use serde_json::Value;

use super::api::{self, Api, ApiError, text};
use super::{Command, Input, flag, help, print_out};

/// The command.
pub static COMMAND: Command = Command {
    name: "rtt",
    operands: "node1 [node2]",
    about: "Estimates network round trip time between nodes",
    more: "Both are node names as `causeway members` shows them; without the second one it is this agent's node. With -wan they are\n\
           names of servers with their datacenter (myserver.dc1), and the round trip is that between the sites' gateways.",
    flags: &[flag("wan", "", "Between sites.")],
    http: true,
    run,
};

fn coordinate(value: &Value) -> Option<Coordinate> {
    let number = |key: &str| value[key].as_f64();
    let vec = value["Vec"].as_array()?.iter().map(Value::as_f64).collect::<Option<Vec<_>>>()?;
    Some(Coordinate { vec, error: number("Error")?, adjustment: number("Adjustment")?, height: number("Height")? })
}

/// Name, segment and coordinate of each entry.
fn entries(list: &Value) -> Vec<(String, String, Coordinate)> {
    let all = list.as_array().into_iter().flatten();
    all.filter_map(|e| Some((text(e, "Node"), text(e, "Segment"), coordinate(&e["Coord"])?))).collect()
}

/// The coordinates of two nodes that can be compared: of one segment, where there is one.
fn pair(all: &[(String, String, Coordinate)], nodes: &[String; 2]) -> Result<(Coordinate, Coordinate), String> {
    let of = |node: &String| all.iter().filter(|e| e.0 == *node).collect::<Vec<_>>();
    let [a, b] = nodes.each_ref().map(of);
    for (found, node) in [(&a, &nodes[0]), (&b, &nodes[1])] {
        if found.is_empty() {
            return Err(format!("Could not find a coordinate for node {node:?}"));
        }
    }
    let common = a.iter().find_map(|x| Some((x, b.iter().find(|y| y.1 == x.1)?)));
    let (x, y) = common.ok_or_else(|| format!("{:?} and {:?} are in no common segment", nodes[0], nodes[1]))?;
    Ok((x.2.clone(), y.2.clone()))
}

/// `name.datacenter`, split at the last dot.
fn split(node: &str) -> Option<(&str, &str)> {
    node.rsplit_once('.').filter(|(name, dc)| !name.is_empty() && !dc.is_empty())
}

fn fail(words: &str) -> ExitCode {
    eprintln!("{words}");
    ExitCode::FAILURE
}

fn own(api: &Api) -> Result<(String, String), ApiError> {
    let this = api.get("/v1/agent/self")?;
    Ok((text(&this["Config"], "NodeName"), text(&this["Config"], "Datacenter")))
}

fn run(input: &Input) -> ExitCode {
    let wan = input.on("wan");
    if !(1..=2).contains(&input.operands.len()) {
        eprint!("One or two node names must be specified\n\n{}", help(&COMMAND));
        return ExitCode::FAILURE;
    }
    if wan && input.operands.iter().any(|node| split(node).is_none()) {
        return fail("Node names must be specified as <node name>.<datacenter> with -wan");
    }
    api::run(input, "Error connecting to Consul agent", |api| {
        let first = input.operands.first().cloned().unwrap_or_default();
        let second = match input.operands.get(1) {
            Some(second) => second.clone(),
            None => match own(api) {
                Ok((name, dc)) => {
                    if wan {
                        format!("{name}.{dc}")
                    } else {
                        name
                    }
                }
                Err(error) => return Ok(fail(&format!("Unable to look up agent info: {error}"))),
            },
        };
        let path = if wan { "/v1/coordinate/datacenters" } else { "/v1/coordinate/nodes" };
        let found = match api.get(path) {
            Ok(found) => found,
            Err(error) => return Ok(fail(&format!("Error getting coordinates: {error}"))),
        };
        let all = if wan {
            let sites = found.as_array().into_iter().flatten();
            let of = |site: &Value| {
                let dc = text(site, "Datacenter");
                entries(&site["Coordinates"])
                    .into_iter()
                    .map(move |(node, segment, coord)| (format!("{node}.{dc}"), segment, coord))
            };
            sites.flat_map(of).collect()
        } else {
            entries(&found)
        };
        let nodes = [first, second];
        let (a, b) = match pair(&all, &nodes) {
            Ok(pair) => pair,
            Err(words) => return Ok(fail(&words)),
        };
        let Some(seconds) = vivaldi::distance(&a, &b) else {
            return Ok(fail("the two coordinates have different dimensions"));
        };
        let [first, second] = nodes;
        let space = if wan { "WAN" } else { "LAN" };
        let ms = seconds * 1000.0;
        print_out(&format!("Estimated {first} <-> {second} rtt: {ms:.3} ms (using {space} coordinates)\n"));
        Ok(ExitCode::SUCCESS)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn two_of_one_segment() {
        let coord = |x: f64| json!({"Vec": [x, 0], "Error": 1.5, "Adjustment": 0, "Height": 0.001});
        let entry = |node: &str, segment: &str, x| json!({"Node": node, "Segment": segment, "Coord": coord(x)});
        let all =
            entries(&json!([entry("a", "", 0.1), entry("a", "s", 0.5), entry("b", "s", 0.9), entry("c", "t", 0.0)]));
        let name = |a: &str, b: &str| [a.to_owned(), b.to_owned()];
        let (a, b) = pair(&all, &name("a", "b")).unwrap();
        assert!((vivaldi::distance(&a, &b).unwrap() - 0.402).abs() < 1e-9);
        assert_eq!(pair(&all, &name("a", "x")).unwrap_err(), "Could not find a coordinate for node \"x\"");
        assert!(pair(&all, &name("a", "c")).unwrap_err().contains("no common segment"));
        assert_eq!(split("a.b.dc1"), Some(("a.b", "dc1")));
        assert_eq!([split("a"), split("a."), split(".dc1")], [None, None, None]);
    }
}
