//! Prepared queries of a server that is not there: `geo` is found in `dc2`, `cut` could not be asked, others do not exist.

use causeway_proto::query::queries_server::Queries;
use causeway_proto::query::{
    ApplyReply, ApplyRequest, ExecuteRemoteRequest, ExecuteReply, ExecuteRequest, ExplainReply, GetRequest,
    ListRequest, QueriesReply,
};
use causeway_proto::rejection::Reason;
use tonic::{Request, Response, Status};

use super::fake::{Fake, check, instance};

type Answer<T> = Result<Response<T>, Status>;

fn no<T>() -> Answer<T> {
    Err(Status::unimplemented("not asked here"))
}

#[tonic::async_trait]
impl Queries for Fake {
    async fn execute(&self, request: Request<ExecuteRequest>) -> Answer<ExecuteReply> {
        let reply = ExecuteReply { service: "web".into(), datacenter: "dc2".into(), ..ExecuteReply::default() };
        match request.get_ref().id_or_name.as_str() {
            "geo" => {
                // The server knows that its check does not count.
                let mut one = instance("g1", "10.2.0.1", "w", "web", 81);
                one.checks = vec![check("critical")];
                let two = instance("g2", "10.2.0.2", "w", "web", 82);
                Ok(Response::new(ExecuteReply { instances: vec![one, two], dns_ttl: "1m30s".into(), ..reply }))
            }
            "cut" => Ok(Response::new(ExecuteReply { unreachable: true, ..reply })),
            _ => Err(Reason::NotFound.status("Query not found")),
        }
    }

    async fn apply(&self, _: Request<ApplyRequest>) -> Answer<ApplyReply> {
        no()
    }

    async fn get(&self, _: Request<GetRequest>) -> Answer<QueriesReply> {
        no()
    }

    async fn list(&self, _: Request<ListRequest>) -> Answer<QueriesReply> {
        no()
    }

    async fn execute_remote(&self, _: Request<ExecuteRemoteRequest>) -> Answer<ExecuteReply> {
        no()
    }

    async fn explain(&self, _: Request<ExecuteRequest>) -> Answer<ExplainReply> {
        no()
    }
}
