//! What follows a failed attempt: a pure decision from the policy, the class of the error and the attempt's number.

use std::collections::BTreeMap;

use celesta_types::ErrorClass;

/// How often and how patiently a class of errors is tried again.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    /// Attempts in all, the first included; at least 1.
    pub attempts: u32,
    /// The wait after the first failed attempt.
    pub first_ms: u64,
    /// What the wait is multiplied by after each further one.
    pub factor: f64,
    /// The longest wait before jitter.
    pub cap_ms: u64,
    /// The share of the wait by which it varies up and down, 0 to 1, so that many failures do not return at one instant.
    pub jitter: f64,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            attempts: 3,
            first_ms: 1_000,
            factor: 2.0,
            cap_ms: 300_000,
            jitter: 0.1,
        }
    }
}

impl Backoff {
    /// The wait after failed attempt `attempt` (from 1); `random` in `0..1` chooses within the jitter.
    #[must_use]
    pub fn delay_ms(&self, attempt: u32, random: f64) -> u64 {
        let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
        let wait = (as_float(self.first_ms) * self.factor.powi(exponent)).min(as_float(self.cap_ms));
        let swing = self.jitter.clamp(0.0, 1.0) * random.clamp(0.0, 1.0).mul_add(2.0, -1.0);
        let wait = wait * (1.0 + swing);
        std::time::Duration::try_from_secs_f64(wait / 1_000.0).map_or(self.cap_ms, |wait| {
            u64::try_from(wait.as_millis()).unwrap_or(self.cap_ms)
        })
    }
}

/// Milliseconds as a floating point number; beyond 50 days the upper bound stands in, far above any cap that is accepted.
fn as_float(milliseconds: u64) -> f64 {
    u32::try_from(milliseconds).map_or_else(|_| f64::from(u32::MAX), f64::from)
}

/// The retry policy of a function: one backoff, and others for single classes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RetryPolicy {
    /// For classes without their own.
    pub default: Backoff,
    /// For single classes.
    pub classes: BTreeMap<ErrorClass, Backoff>,
}

impl RetryPolicy {
    /// What applies to `class`.
    #[must_use]
    pub fn backoff(&self, class: ErrorClass) -> &Backoff {
        self.classes.get(&class).unwrap_or(&self.default)
    }

    /// The most attempts any class may have.
    #[must_use]
    pub fn attempts_max(&self) -> u32 {
        self.classes
            .values()
            .map(|backoff| backoff.attempts)
            .fold(self.default.attempts, u32::max)
    }
}

/// What follows a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Try again.
    Retry {
        /// After this wait.
        after_ms: u64,
        /// On a bigger shape.
        bigger: bool,
    },
    /// Never: the call has failed.
    GiveUp,
}

/// Decides what follows attempt `attempt` (from 1) that failed with `class`. `random` in `0..1` chooses the jitter.
///
/// Input errors and canceled calls are never tried again. A preempted attempt is always tried again and the caller does
/// not count it. A resource error asks for a bigger shape.
#[must_use]
pub fn next(policy: &RetryPolicy, class: ErrorClass, attempt: u32, random: f64) -> Verdict {
    let backoff = policy.backoff(class);
    match class {
        ErrorClass::Input | ErrorClass::Canceled => Verdict::GiveUp,
        ErrorClass::Preempted => Verdict::Retry {
            after_ms: backoff.delay_ms(1, random),
            bigger: false,
        },
        ErrorClass::User
        | ErrorClass::Transient
        | ErrorClass::Node
        | ErrorClass::Resource
        | ErrorClass::Timeout
        | ErrorClass::Internal => {
            if attempt >= backoff.attempts {
                Verdict::GiveUp
            } else {
                Verdict::Retry {
                    after_ms: backoff.delay_ms(attempt, random),
                    bigger: class == ErrorClass::Resource,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn after(policy: &RetryPolicy, attempt: u32, random: f64) -> Option<u64> {
        match next(policy, ErrorClass::Transient, attempt, random) {
            Verdict::Retry { after_ms, .. } => Some(after_ms),
            Verdict::GiveUp => None,
        }
    }

    #[test]
    fn waits_double_from_one_second_to_five_minutes_with_a_tenth_of_jitter() {
        let policy = RetryPolicy {
            default: Backoff {
                attempts: 100,
                ..Backoff::default()
            },
            ..RetryPolicy::default()
        };
        assert_eq!(after(&policy, 1, 0.5), Some(1_000));
        assert_eq!(after(&policy, 2, 0.5), Some(2_000));
        assert_eq!(after(&policy, 9, 0.5), Some(256_000));
        assert_eq!(after(&policy, 10, 0.5), Some(300_000));
        assert_eq!(after(&policy, 99, 0.5), Some(300_000));
        assert_eq!(after(&policy, 1, 0.0), Some(900));
        assert_eq!(after(&policy, 10, 1.0), Some(330_000));
    }

    #[test]
    fn three_attempts_are_the_default_and_a_class_may_have_its_own() {
        let mut policy = RetryPolicy::default();
        policy.classes.insert(
            ErrorClass::Transient,
            Backoff {
                attempts: 10,
                ..Backoff::default()
            },
        );
        assert!(after(&policy, 9, 0.0).is_some());
        assert_eq!(after(&policy, 10, 0.0), None);
        assert!(matches!(
            next(&policy, ErrorClass::User, 2, 0.0),
            Verdict::Retry { .. }
        ));
        assert_eq!(next(&policy, ErrorClass::User, 3, 0.0), Verdict::GiveUp);
        assert_eq!(policy.attempts_max(), 10);
    }

    #[test]
    fn the_class_decides_beyond_the_count() {
        let policy = RetryPolicy::default();
        assert_eq!(next(&policy, ErrorClass::Input, 1, 0.0), Verdict::GiveUp);
        assert_eq!(next(&policy, ErrorClass::Canceled, 1, 0.0), Verdict::GiveUp);
        assert!(matches!(
            next(&policy, ErrorClass::Preempted, 1_000, 0.0),
            Verdict::Retry { bigger: false, .. }
        ));
        assert!(matches!(
            next(&policy, ErrorClass::Resource, 1, 0.0),
            Verdict::Retry { bigger: true, .. }
        ));
    }

    proptest! {
        #[test]
        fn a_wait_never_exceeds_the_cap_and_its_jitter(
            attempt in 1_u32.., random in 0.0..1.0_f64, first_ms in 0_u64..10_000_000, factor in 1.0..100.0_f64,
            cap_ms in 0_u64..86_400_000, jitter in 0.0..1.0_f64,
        ) {
            let backoff = Backoff { attempts: 3, first_ms, factor, cap_ms, jitter };
            prop_assert!(backoff.delay_ms(attempt, random) <= cap_ms * 2);
        }

        #[test]
        fn an_error_is_never_tried_for_ever(attempts in 1_u32..50, class in 0_usize..9) {
            let policy = RetryPolicy { default: Backoff { attempts, ..Backoff::default() }, ..RetryPolicy::default() };
            let class = ErrorClass::ALL[class];
            prop_assume!(class != ErrorClass::Preempted);
            prop_assert_eq!(next(&policy, class, attempts, 0.5), Verdict::GiveUp);
        }
    }
}
