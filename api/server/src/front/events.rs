//! Events in a deployment: each goes to the partition where its name is kept, which routes it for all partitions.

use std::collections::BTreeMap;

use axum::body::{Body, Bytes};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, Request, StatusCode, header};
use axum::response::Response;
use celesta_runs::{CloudEvent, Published};
use celesta_types::{ErrorKind, Partition};
use futures_util::future::join_all;
use serde::Deserialize;
use serde_json::Value;

use super::Front;
use super::unite::whole_answer;
use crate::problem::{Answer, Problem};
use crate::publish::{BATCH, events_of, told};

/// What a partition says of its part of the events, be they taken or of no use.
#[derive(Debug, Deserialize)]
struct Told {
    events: Vec<Published>,
}

impl Front {
    /// Gives each event to its partition and makes one answer of theirs. When a partition does not answer, that is the
    /// answer; what others have taken counts, and is a duplicate when the same events are sent again.
    pub(super) async fn events(&self, parts: &Parts, body: Body) -> Answer<Response> {
        let (events, batch) = events_of(&self.shared.api.clock, &parts.headers, body).await?;
        let places = places(&events, self.partitions.count());
        let asked = places.iter().map(|(partition, places)| {
            let values: Vec<&Value> = places.iter().map(|at| events[*at].value()).collect();
            let body = serde_json::to_vec(&values).unwrap_or_default();
            self.tell(*partition, parts, body.into())
        });
        let mut published: Vec<Option<Published>> = vec![None; events.len()];
        for (answer, places) in join_all(asked).await.into_iter().zip(places.values()) {
            let taken = match answer {
                Ok(taken) => taken,
                Err(refusal) => return Ok(refusal),
            };
            for (one, at) in taken.into_iter().zip(places) {
                published[*at] = Some(one);
            }
        }
        let all: Option<Vec<Published>> = published.into_iter().collect();
        let broken = || Problem::failure(ErrorKind::Internal, &"a partition has not told of all its events");
        told(all.ok_or_else(broken)?, batch)
    }

    /// Gives events to a partition; an answer that is about none of them is passed on.
    async fn tell(&self, partition: u32, parts: &Parts, body: Bytes) -> Result<Vec<Published>, Response> {
        let answer = self.at(partition, &batch_of(parts), &body).await;
        if !answer.status().is_success() && answer.status() != StatusCode::UNPROCESSABLE_ENTITY {
            return Err(answer);
        }
        let (head, body) = answer.into_parts();
        let bytes = whole_answer(body).await?;
        match serde_json::from_slice::<Told>(&bytes) {
            Ok(told) => Ok(told.events),
            Err(_) => Err(Response::from_parts(head, Body::from(bytes))),
        }
    }
}

/// Where the events of each partition stand, in their order.
fn places(events: &[CloudEvent], count: u32) -> BTreeMap<u32, Vec<usize>> {
    let mut places: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (at, event) in events.iter().enumerate() {
        let partition = Partition::of_key(event.source(), event.id(), count);
        places.entry(partition.index).or_default().push(at);
    }
    places
}

/// The head of a request with a batch of events, in the client's name.
fn batch_of(parts: &Parts) -> Parts {
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = parts.uri.clone();
    let headers = request.headers_mut();
    if let Some(token) = parts.headers.get(header::AUTHORIZATION) {
        headers.insert(header::AUTHORIZATION, token.clone());
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(BATCH));
    request.into_parts().0
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_event_has_one_partition_and_keeps_its_place() {
        let event = |id: &str| {
            let event = json!({ "specversion": "1.0", "id": id, "source": "shop", "type": "t" });
            CloudEvent::read(event).expect("a good event")
        };
        let events: Vec<CloudEvent> = ["a", "b", "c", "d", "a"].map(event).into();
        let found = places(&events, 8);
        let wanted = [(1, vec![2]), (2, vec![0, 4]), (3, vec![1]), (7, vec![3])];
        assert_eq!(found, BTreeMap::from(wanted), "the same in every release");
    }
}
