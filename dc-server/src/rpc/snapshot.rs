//! Service `Snapshots`.

use causeway_proto::command::command::Command;
use causeway_proto::rejection::Reason;
use causeway_proto::snapshot::snapshots_server::Snapshots;
use causeway_proto::snapshot::{Piece, RestoreReply, RestoreRequest, SaveRequest, SavedAt};
use futures::StreamExt;
use futures::stream::BoxStream;
use tonic::{Request, Response, Status};

use super::{Log, Service, call_id, driver};
use crate::store::MAX_PIECE;

#[tonic::async_trait]
impl<L: Log> Snapshots for Service<L> {
    type SaveStream = BoxStream<'static, Result<Piece, Status>>;

    async fn save(&self, _: Request<SaveRequest>) -> Result<Response<Self::SaveStream>, Status> {
        // One state: what is written later does not change it.
        let state = self.store.state();
        let index = state.index();
        let first = Piece { at: Some(SavedAt { index, term: self.log.term() }), ..Piece::default() };
        let pieces = futures::stream::iter([first]).chain(driver::pieces(state, MAX_PIECE));
        let stream: Self::SaveStream = Box::pin(pieces.map(Ok));
        Ok(self.answer(index).response(stream))
    }

    async fn restore(&self, request: Request<RestoreRequest>) -> Result<Response<RestoreReply>, Status> {
        let call = call_id(&request);
        let request = request.into_inner();
        if request.id.is_empty() {
            return Err(Reason::Invalid.status("a restore needs an id"));
        }
        if request.bytes.len() > MAX_PIECE {
            return Err(Reason::TooLarge.status(format!("a piece of a snapshot has {MAX_PIECE} bytes at most")));
        }
        let outcome = self.write(call, Command::Restore(request)).await?;
        Ok(Response::new(RestoreReply { index: outcome.index }))
    }
}
