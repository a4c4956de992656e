//! Service `Txn`.

use causeway_proto::command::command::Command;
use causeway_proto::rejection::Reason;
use causeway_proto::txn::txn_server::Txn;
use causeway_proto::txn::{OpError, TxnReply, TxnRequest, op::Op};
use tonic::{Request, Response, Status};

use super::{Log, MAX_TXN_OPS, Service, call_id, catalog, kv};

impl<L: Log> Service<L> {
    fn check_txn(&self, request: &TxnRequest) -> Result<(), Status> {
        let ops = request.ops.len();
        if ops > MAX_TXN_OPS {
            let text = format!("Transaction contains too many operations ({ops} > {MAX_TXN_OPS})");
            return Err(Reason::TooLarge.status(text));
        }
        for op in &request.ops {
            match &op.op {
                Some(Op::Kv(op)) => {
                    if let Some(entry) = &op.entry {
                        kv::check(&self.limits, &entry.key, &entry.value)?;
                        if !op.verb.starts_with("get") && !op.verb.starts_with("check-") {
                            self.may_write(&entry.key, op.verb == "delete-tree")?;
                        }
                    }
                }
                Some(Op::Node(op)) => catalog::check_node_id(op.node.as_ref().map_or("", |node| &node.id))?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Locks whose keys may not be acquired yet.
    fn delayed(&self, request: &TxnRequest) -> Vec<OpError> {
        let mut errors = Vec::new();
        for (at, op) in request.ops.iter().enumerate() {
            if let Some(Op::Kv(op)) = &op.op
                && op.verb == "lock"
                && let Some(entry) = &op.entry
                && self.log.lock_delay(&entry.key)
            {
                let what = format!("failed to lock key {:?} due to lock delay", entry.key);
                errors.push(OpError { op_index: u32::try_from(at).unwrap_or(u32::MAX), what });
            }
        }
        errors
    }
}

#[tonic::async_trait]
impl<L: Log> Txn for Service<L> {
    async fn apply(&self, request: Request<TxnRequest>) -> Result<Response<TxnReply>, Status> {
        let call = call_id(&request);
        let request = request.into_inner();
        self.check_txn(&request)?;
        let errors = if self.was_done(call) { Vec::new() } else { self.delayed(&request) };
        if !errors.is_empty() {
            return Ok(Response::new(TxnReply { errors, ..TxnReply::default() }));
        }
        let outcome = self.write(call, Command::Txn(request)).await?;
        Ok(Response::new(outcome.txn.unwrap_or_default()))
    }

    async fn read(&self, request: Request<TxnRequest>) -> Result<Response<TxnReply>, Status> {
        self.check_txn(request.get_ref())?;
        let reply = self.store.state().txn_read(request.get_ref());
        Ok(self.answer(reply.index.max(1)).response(reply))
    }
}
