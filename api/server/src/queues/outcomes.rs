//! Answers about several messages: one outcome for each, in order.

use axum::Json;
use axum::response::IntoResponse as _;
use serde_json::{Map, Value};

use super::envelope;
use crate::problem::{Answer, Problem};

/// Outcomes as they come.
#[derive(Debug, Default)]
pub(crate) struct Outcomes {
    rows: Vec<Value>,
    refused: usize,
    first: Option<Problem>,
}

impl Outcomes {
    /// What was asked for message `id` is done; `more` says what else there is to say.
    pub(crate) fn done(&mut self, id: &str, outcome: &str, more: Option<(&str, Value)>) {
        let mut row = row(id, outcome);
        row.extend(more.map(|(name, value)| (name.to_owned(), value)));
        self.rows.push(row.into());
    }

    /// What was asked for message `id` is not done. The problem speaks of the message by its producer's name for it.
    pub(crate) fn refuse(&mut self, id: &str, problem: Problem) {
        let problem = problem.saying(&envelope::id_of(id).to_string(), id);
        let mut row = row(id, "refused");
        row.insert("problem".to_owned(), problem.members().into());
        self.rows.push(row.into());
        self.refused += 1;
        self.first.get_or_insert(problem);
    }

    /// The answer: all outcomes, or the first problem when nothing at all was done.
    pub(crate) fn answer(self) -> Answer {
        match self.first {
            Some(problem) if self.refused == self.rows.len() => {
                Err(problem.with("outcomes", self.rows.into()))
            }
            _ => {
                let mut answer = Map::new();
                answer.insert("refused".to_owned(), self.refused.into());
                answer.insert("outcomes".to_owned(), self.rows.into());
                Ok(Json(answer).into_response())
            }
        }
    }
}

fn row(id: &str, outcome: &str) -> Map<String, Value> {
    let mut row = Map::new();
    row.insert("id".to_owned(), id.into());
    row.insert("outcome".to_owned(), outcome.into());
    row
}
