use causeway_proto::catalog::StringList;
use causeway_proto::query::queries_client::QueriesClient;
use causeway_proto::query::{
    ApplyRequest, ExecuteRequest, Failover, GetRequest, ListRequest, PreparedQuery, ServiceQuery, Verb,
};

use super::*;

fn query(name: &str, datacenters: &[&str], nearest_n: i64) -> PreparedQuery {
    let datacenters = StringList { values: datacenters.iter().map(ToString::to_string).collect() };
    let failover = Failover { nearest_n, datacenters: Some(datacenters), ..Failover::default() };
    let service = ServiceQuery { service: "web".into(), failover: Some(failover), ..ServiceQuery::default() };
    PreparedQuery { name: name.into(), service: Some(service), ..PreparedQuery::default() }
}

async fn apply(bench: &Bench, verb: Verb, query: PreparedQuery) -> Result<String, Status> {
    let request = ApplyRequest { verb: verb.into(), query: Some(query) };
    QueriesClient::new(bench.door.clone()).apply(request).await.map(|reply| reply.into_inner().id)
}

async fn execute(bench: &Bench, name: &str) -> Result<ExecuteReply, Status> {
    let request = ExecuteRequest { id_or_name: name.into(), ..ExecuteRequest::default() };
    QueriesClient::new(bench.door.clone()).execute(request).await.map(Response::into_inner)
}

#[tokio::test]
async fn a_query_goes_to_other_datacenters() {
    let bench = bench();
    for (name, datacenters, nearest) in [
        ("all", &[][..], 9),
        ("named", &["dc9", "dc4"], 0),
        ("cut", &["dc3"], 0),
        ("empty", &["dc2"], 0),
        ("none", &[], 0),
    ] {
        apply(&bench, Verb::Create, query(name, datacenters, nearest)).await.unwrap();
    }
    // Name, where it was found, how many were asked, whether the outcome is open.
    for (name, datacenter, asked, open) in [
        ("all", "dc4", 3, false),
        ("named", "dc4", 1, false),
        ("cut", "dc1", 1, true),
        ("empty", "dc1", 1, false),
        ("none", "dc1", 0, false),
    ] {
        let reply = execute(&bench, name).await.unwrap();
        assert_eq!(
            (reply.datacenter.as_str(), reply.failovers, reply.unreachable),
            (datacenter, asked, open),
            "{name}"
        );
        assert_eq!((reply.service.as_str(), reply.instances.is_empty()), ("web", datacenter == "dc1"));
    }
    bench.register("n1", "web", &[]).await;
    let reply = execute(&bench, "all").await.unwrap();
    assert_eq!((reply.datacenter.as_str(), reply.failovers, reply.instances.len()), ("dc1", 0, 1));
    assert_eq!(execute(&bench, "nothing").await.unwrap_err().message(), "Query not found");
}

/// The texts are those of Consul 1.8.7.
#[tokio::test]
async fn writes_are_checked() {
    let bench = bench();
    let id = apply(&bench, Verb::Create, query("q", &[], 0)).await.unwrap();
    let named = |id: &str| PreparedQuery { id: id.into(), ..query("x", &[], 0) };
    let absent = "11111111-1111-1111-1111-111111111111";
    let text = |status: Status| status.message().to_owned();
    for (verb, id, wanted) in [
        (Verb::Create, absent, "ID must be empty when creating a new prepared query"),
        (Verb::Update, absent, "Cannot modify non-existent prepared query: '11111111-1111-1111-1111-111111111111'"),
        (Verb::Delete, absent, "Cannot modify non-existent prepared query: '11111111-1111-1111-1111-111111111111'"),
        (
            Verb::Delete,
            "abc",
            "Prepared Query lookup failed: failed prepared query lookup: index error: UUID must be 36 characters",
        ),
    ] {
        assert_eq!(text(apply(&bench, verb, named(id)).await.unwrap_err()), wanted);
    }
    apply(&bench, Verb::Update, named(&id)).await.unwrap();
    let mut client = QueriesClient::new(bench.door.clone());
    let found = client.get(GetRequest { id: id.clone() }).await.unwrap().into_inner().queries;
    assert_eq!(found.first().map(|q| q.name.as_str()), Some("x"));
    apply(&bench, Verb::Delete, named(&id)).await.unwrap();
    assert!(client.list(ListRequest {}).await.unwrap().into_inner().queries.is_empty());
}
