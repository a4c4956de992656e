//! Failover between two sites of real processes: a prepared query finds elsewhere what is not here, by HTTP and by DNS, and says
//! so when it could not ask.
#![allow(clippy::disallowed_methods, reason = "tests touch the world")]

mod harness;

use std::time::{Duration, Instant};

use harness::{Federation, http, wait};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use serde_json::json;

const SOON: Duration = Duration::from_secs(15);

#[test]
fn a_prepared_query_goes_to_the_other_site() {
    let mut federation = Federation::start("failover", 2, 1);
    let (here, there) = (federation.agent("dc1"), federation.agent("dc2"));
    there
        .put("/v1/agent/service/register", r#"{"Name":"web","Address":"127.0.0.9","Port":81,"Tags":["a"]}"#)
        .ok()
        .unwrap();
    let query =
        r#"{"Name":"geo","Service":{"Service":"web","Tags":["a","!b"],"Failover":{"NearestN":2}},"DNS":{"TTL":"7s"}}"#;
    let created = http::request(here.http, "POST", "/v1/query", query.as_bytes()).json().unwrap();
    let id = created["ID"].as_str().unwrap().to_owned();

    // Healthy only there: found from here, by name and by ID, and it is said where.
    let found = wait("the instance at the other site", SOON, || {
        let found = here.get("/v1/query/geo/execute").json()?;
        if found["Nodes"].as_array().is_some_and(|nodes| nodes.len() == 1) { Ok(found) } else { Err(found.to_string()) }
    });
    assert_eq!((&found["Datacenter"], &found["Failovers"]), (&json!("dc2"), &json!(1)), "{found}");
    assert_eq!(found["Nodes"][0]["Node"]["Datacenter"], "dc2");
    assert_eq!(here.get(&format!("/v1/query/{id}/execute")).json().unwrap()["Datacenter"], "dc2");
    let srv = here.dig("geo.query.consul.", RecordType::SRV).unwrap();
    assert_eq!((srv.code, srv.ports()), (ResponseCode::NoError, vec![81]));
    // Of the other site it is not known.
    assert_eq!(there.get("/v1/query/geo/execute").code, 404);
    let remote = there.get("/v1/query/geo/execute?dc=dc1").json().unwrap();
    assert_eq!(remote["Datacenter"], "dc2");

    // Healthy here too: this site answers.
    here.put("/v1/agent/service/register", r#"{"Name":"web","Port":82,"Tags":["a"]}"#).ok().unwrap();
    wait("the instance of this site", SOON, || {
        let found = here.get("/v1/query/geo/execute").json()?;
        if found["Datacenter"] == "dc1" && found["Failovers"] == 0 { Ok(()) } else { Err(found.to_string()) }
    });
    here.put("/v1/agent/service/deregister/web", "").ok().unwrap();
    assert_eq!(here.dig("none.query.consul.", RecordType::A).unwrap().code, ResponseCode::NXDomain);
    wait("the instance of this site to go", SOON, || match here.dig("geo.query.consul.", RecordType::SRV)?.ports() {
        ports if ports == [81] => Ok(()),
        ports => Err(format!("{ports:?}")),
    });

    // The other site is cut off: an empty answer says why, and DNS does not claim that the name does not exist.
    federation.node_mut("dc2-gateway").kill();
    let here = federation.agent("dc1");
    let start = Instant::now();
    let cut = here.dig("geo.query.consul.", RecordType::SRV).unwrap();
    assert_eq!(cut.code, ResponseCode::ServFail, "{cut:?}");
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    let empty = here.get("/v1/query/geo/execute");
    assert_eq!((empty.code, empty.header("x-causeway-reason")), (200, Some("unreachable")));
    assert_eq!(empty.json().unwrap()["Nodes"], json!([]));
}
