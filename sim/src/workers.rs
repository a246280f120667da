//! The workers: they lease calls through the real feed, and answer when and how the seed says.

use std::collections::BTreeMap;
use std::sync::Arc;

use celesta_functions::{Invocation, Manifest, Report, ReportOutcome, retry};
use celesta_queue::Leased;
use celesta_runs::Runtime;
use celesta_types::Digest;
use celesta_types::{CallId, ErrorClass, RunId, Timestamp};
use celesta_worker::{Finish, Finished, Package, PackageError, Packages, Served};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use crate::workloads::answer;

/// A call in the hands of a worker.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub(crate) leased: Leased,
    pub(crate) run: RunId,
    pub(crate) call: CallId,
    pub(crate) function: String,
    pub(crate) input: serde_json::Value,
    pub(crate) started: Timestamp,
}

impl Held {
    pub(crate) fn of(leased: Leased, now: Timestamp) -> Option<Self> {
        let invocation = Invocation::decode(&leased.payload).ok()?;
        Some(Self {
            run: invocation.run,
            call: invocation.call,
            function: invocation.function.to_owned(),
            input: serde_json::from_slice(invocation.input).ok()?,
            started: now,
            leased,
        })
    }

    /// A success.
    pub(crate) fn succeeded(&self, now: Timestamp) -> Finished {
        let result = answer(&self.function, &self.input).to_string();
        self.report(
            now,
            ReportOutcome::Succeeded {
                result: result.as_bytes(),
            },
        )
    }

    /// A failed attempt, and what the policy of the function makes of it.
    pub(crate) fn failed(&self, manifest: Option<&Manifest>, class: ErrorClass, now: Timestamp) -> Finished {
        let attempt = self.leased.attempt;
        let verdict = manifest.map_or(retry::Verdict::GiveUp, |manifest| {
            retry::next(&manifest.retry, class, attempt, 0.5)
        });
        match verdict {
            retry::Verdict::Retry { after_ms, .. } => Finished {
                finish: Finish::Retry {
                    after_ms: i64::try_from(after_ms).unwrap_or(i64::MAX),
                    error: class.name().to_owned(),
                },
                ..self.released()
            },
            retry::Verdict::GiveUp => self.report(
                now,
                ReportOutcome::Failed {
                    class,
                    message: "simulated",
                    attempts: attempt,
                },
            ),
        }
    }

    /// Given back untouched.
    pub(crate) fn released(&self) -> Finished {
        Finished {
            lease: self.leased.lease(),
            run: self.run,
            priority: self.leased.priority,
            finish: Finish::Release,
            record: None,
        }
    }

    fn report(&self, now: Timestamp, outcome: ReportOutcome<'_>) -> Finished {
        let report = Report {
            call: self.call,
            attempt: self.leased.attempt,
            started: self.started,
            ended: now,
            worker: "sim",
            avoided: false,
            outcome,
        };
        Finished {
            finish: Finish::Report(report.encode()),
            ..self.released()
        }
    }
}

/// The functions of the pushed versions.
#[derive(Debug)]
pub(crate) struct Shelf {
    pub(crate) runtime: Runtime,
}

impl Packages for Shelf {
    fn served(&self) -> Vec<Served> {
        let mut served = Vec::new();
        for version in self.runtime.services() {
            served.extend(version.bundle.functions.iter().map(|(name, manifest)| Served {
                service: Arc::clone(&version.service),
                function: name.as_str().into(),
                bundle: version.digest,
                manifest: Arc::new(manifest.clone()),
            }));
        }
        served
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.runtime.pushes()
    }

    fn package<'a>(
        &'a self,
        service: &'a str,
        bundle: &'a Digest,
        function: &'a str,
    ) -> BoxFuture<'a, Result<Arc<Package>, PackageError>> {
        async move {
            let missing = || PackageError::NotFound {
                service: service.to_owned(),
                bundle: *bundle,
                function: function.to_owned(),
            };
            let version = self.runtime.version(*bundle).await;
            let version = version.map_err(|error| PackageError::Unavailable {
                reason: error.to_string(),
            })?;
            let manifest = version.bundle.functions.get(function).ok_or_else(missing)?;
            Ok(Arc::new(Package {
                manifest: Arc::new(manifest.clone()),
                folder: version.folder.clone(),
                content: version.bundle.pure_contents.get(function).copied(),
            }))
        }
        .boxed()
    }
}

/// What workers said of calls for good, and how often they were asked.
#[derive(Debug, Default)]
pub(crate) struct Said {
    /// The classes of the errors that were reported of each call.
    pub(crate) failed: BTreeMap<(RunId, CallId), Vec<ErrorClass>>,
}
