//! What people and schedulers do to messages: call back, give another chance, reorder.

use axum::body::Body;
use axum::extract::Path;
use axum::http::HeaderMap;
use celesta_queue::machine::State as Life;
use celesta_queue::{Filter, MessageError, QueueName};
use celesta_types::MessageId;

use super::outcomes::Outcomes;
use super::shapes::{self, Choice, Reprioritize};
use super::{envelope, found, open_to_all, refuse};
use crate::problem::{Answer, Problem};
use crate::server::State;

/// Matching messages of one call unless the client says otherwise, and at most.
const MATCHING_MAX: usize = 1_000;

/// Call messages back, by their ids or by what they are.
#[utoipa::path(post, path = "/v1/queues/{queue}/cancel", operation_id = "cancel_messages", tag = "queues",
    params(("queue" = String, Path, description = "The queue; a `/` in its name is written `%2F`.")),
    request_body = Choice,
    responses(
        (status = 200, description = "An outcome for each message: `canceled` or `refused` with its `problem`.", body = serde_json::Value),
        (status = "4XX", description = "Every message was refused, the first one for this reason.", body = crate::openapi::ProblemBody)))]
pub(crate) async fn cancel(
    shared: State,
    Path(queue): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let queue = open_to_all(&queue)?;
    let choice: Choice = shapes::read(&shared, &headers, body).await?;
    found(&shared, &queue).await?;
    match chosen(choice)? {
        Chosen::Ids(texts, ids) => {
            let taken = shared.api.queues.cancel(&queue, &ids).await;
            told(&texts, taken.map_err(|error| refuse::whole(&error))?, "canceled")
        }
        Chosen::Matching(filter, max) => {
            let canceled = shared.api.queues.cancel_matching(&queue, &filter, max).await;
            let canceled = canceled.map_err(|error| refuse::whole(&error))?;
            let texts: Vec<_> = canceled.iter().map(ToString::to_string).collect();
            told(&texts, vec![Ok(()); texts.len()], "canceled")
        }
    }
}

/// Give errored or expired messages a new set of attempts, by their ids or by what they are.
#[utoipa::path(post, path = "/v1/queues/{queue}/redrive", operation_id = "redrive_messages", tag = "queues",
    params(("queue" = String, Path, description = "The queue; a `/` in its name is written `%2F`.")),
    request_body = Choice,
    responses(
        (status = 200, description = "An outcome for each message: `redriven` or `refused` with its `problem`.", body = serde_json::Value),
        (status = "4XX", description = "Every message was refused, the first one for this reason.", body = crate::openapi::ProblemBody)))]
pub(crate) async fn redrive(
    shared: State,
    Path(queue): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let queue = open_to_all(&queue)?;
    let choice: Choice = shapes::read(&shared, &headers, body).await?;
    found(&shared, &queue).await?;
    let (texts, ids) = match chosen(choice)? {
        Chosen::Ids(texts, ids) => (texts, ids),
        Chosen::Matching(filter, max) => dead(&shared, &queue, filter, max).await?,
    };
    if ids.is_empty() {
        return told(&[], Vec::new(), "redriven");
    }
    let taken = shared.api.queues.redrive(&queue, &ids).await;
    told(&texts, taken.map_err(|error| refuse::whole(&error))?, "redriven")
}

/// Move waiting messages within the order.
#[utoipa::path(post, path = "/v1/queues/{queue}/reprioritize", operation_id = "reprioritize_messages", tag = "queues",
    params(("queue" = String, Path, description = "The queue; a `/` in its name is written `%2F`.")),
    request_body = Reprioritize,
    responses(
        (status = 200, description = "An outcome for each message: `reprioritized` or `refused` with its `problem`.", body = serde_json::Value),
        (status = "4XX", description = "Every message was refused, the first one for this reason.", body = crate::openapi::ProblemBody)))]
pub(crate) async fn reprioritize(
    shared: State,
    Path(queue): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let queue = open_to_all(&queue)?;
    let Reprioritize { changes } = shapes::read(&shared, &headers, body).await?;
    shapes::batch("messages", changes.len())?;
    found(&shared, &queue).await?;
    let mut texts = Vec::with_capacity(changes.len());
    let mut moved = Vec::with_capacity(changes.len());
    for change in changes {
        let priority = change.priority.priority().map_err(refuse::invalid_message)?;
        moved.push((envelope::id_of(&change.id), priority));
        texts.push(change.id);
    }
    let taken = shared.api.queues.reprioritize(&queue, &moved).await;
    told(
        &texts,
        taken.map_err(|error| refuse::whole(&error))?,
        "reprioritized",
    )
}

/// Which messages a request is about.
enum Chosen {
    Ids(Vec<String>, Vec<MessageId>),
    Matching(Filter, usize),
}

fn chosen(choice: Choice) -> Answer<Chosen> {
    match (choice.ids, choice.filter) {
        (Some(texts), None) => {
            shapes::batch("ids", texts.len())?;
            let ids = texts.iter().map(|id| envelope::id_of(id)).collect();
            Ok(Chosen::Ids(texts, ids))
        }
        (None, Some(filter)) => {
            let max = shapes::count("max", choice.max, MATCHING_MAX, MATCHING_MAX)?;
            Ok(Chosen::Matching(filter.filter()?, max))
        }
        _ => Err(Problem::invalid_parameter("give either `ids` or `filter`")),
    }
}

/// Errored and expired messages that match.
async fn dead(
    shared: &State,
    queue: &QueueName,
    mut filter: Filter,
    max: usize,
) -> Answer<(Vec<String>, Vec<MessageId>)> {
    let dead = [Life::Errored, Life::Expired];
    if filter.states.is_empty() {
        filter.states = dead.to_vec();
    }
    filter.states.retain(|state| dead.contains(state));
    if filter.states.is_empty() {
        return Ok((Vec::new(), Vec::new()));
    }
    let page = shared.api.queues.list(queue, &filter, None, max).await;
    let page = page.map_err(|error| refuse::whole(&error))?;
    let texts = page.messages.iter().map(|message| {
        let opened = message.payload.as_deref().map(envelope::open);
        opened.map_or_else(|| message.id.to_string(), |opened| opened.id_text(message.id))
    });
    Ok((
        texts.collect(),
        page.messages.iter().map(|message| message.id).collect(),
    ))
}

fn told(texts: &[String], taken: Vec<Result<(), MessageError>>, outcome: &str) -> Answer {
    let mut outcomes = Outcomes::default();
    for (id, taken) in texts.iter().zip(taken) {
        match taken {
            Ok(()) => outcomes.done(id, outcome, None),
            Err(error) => outcomes.refuse(id, refuse::message(&error)),
        }
    }
    outcomes.answer()
}
