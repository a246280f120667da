//! Every bound of the queue, with its reason.

/// Bytes of one payload: 32 KiB of content and the envelope the platform puts around it. Larger values travel as artifacts,
/// so that a batch of messages stays small.
pub const PAYLOAD_BYTES_MAX: usize = 32 * 1024 + 512;
/// Messages of one call. At 32 KiB each it bounds one commit to some 300 MiB; callers split larger batches.
pub const BATCH_MAX: usize = 10_000;
/// Messages staged into one caller's unit by one call: a turn that fans out to 100,000 calls must fit.
pub const STAGED_MAX: usize = 131_072;
/// Metadata pairs of one message: enough to find it again, few enough to compare with each candidate.
pub const METADATA_PAIRS_MAX: usize = 8;
/// Bytes of one metadata key or value, and of a fairness key.
pub const METADATA_BYTES_MAX: usize = 256;
/// Bytes of a queue's name: it is a path segment of URLs and a label of logs.
pub const NAME_BYTES_MAX: usize = 255;
/// The shortest lease: below it the timer's own precision would decide who holds a message.
pub const LEASE_MS_MIN: i64 = 10;
/// The longest lease, seven days: whoever works longer extends, so that a lost consumer is noticed within a week.
pub const LEASE_MS_MAX: i64 = 7 * 24 * 3_600_000;
/// The longest delay of a message, ten years: run timers reach that far.
pub const DELAY_MS_MAX: i64 = 3_653 * 24 * 3_600_000;
/// The most attempts a message may be given; more is a loop, not a retry.
pub const ATTEMPTS_MAX: u32 = 1_000_000;
/// Messages of all queues in memory: at about 130 bytes each, some 2 GiB; payloads are bounded apart.
pub const MESSAGES_MAX: usize = 16_000_000;
/// Bytes of payloads in memory: the next ones in order are there before they are leased, the others stay in the record.
pub const RESIDENT_BYTES_MAX: usize = 256 * 1024 * 1024;
/// How long histories are kept unless a queue says otherwise: a day, to look into yesterday's failure.
pub const HISTORY_MS: i64 = 24 * 3_600_000;
/// Events of one message's timeline that are kept; of more, the first and the last ones are.
pub const TIMELINE_MAX: usize = 64;
/// Shards of one queue: more than the cores of a large machine serve nobody.
pub const SHARDS_MAX: u32 = 64;
/// Fairness keys of one queue that have a weight of their own: it is a table for people.
pub const WEIGHTS_MAX: usize = 1_000;
/// The largest weight: at more, the others would as good as starve.
pub const WEIGHT_MAX: u32 = 1_000;
/// Ended messages kept for each queue; beyond it the oldest are forgotten before their time.
pub const ENDED_MAX: usize = 10_000;
/// Bytes of an error text; longer ones are cut: it is for people, and it is kept in memory.
pub const ERROR_BYTES_MAX: usize = 4_096;
/// Bytes of an error text in a timeline: a message may fail often.
pub const ERROR_SHOWN_BYTES_MAX: usize = 256;
/// Queues of one process: each costs about a kilobyte, and names come from callers.
pub const QUEUES_MAX: usize = 100_000;
/// How long an unstored message waits for a consumer before it is stored on its own. A busy run is free again within
/// one commit, a few milliseconds; much longer would only delay the acknowledgement its producer waits for.
pub const LINGER_MS: i64 = 20;
/// A lease that lives longer than this is written to the record, so that the attempt counts after a crash. Shorter
/// ones cost no write: they are nearly all leases.
pub const RECORD_AFTER_MS: i64 = 1_000;
/// After a start, leases of messages that were found in the record are written at once for this long: a message that
/// kills the process quickly is the reason to have started, and must run out of attempts.
pub const SUSPECT_MS: i64 = 60_000;
/// Rows read at once when a store is opened.
pub const LOAD_ROWS: i64 = 20_000;
/// Views returned by one listing.
pub const LIST_MAX: usize = 1_000;
/// Messages that become visible later than this stay in the record until their time comes nearer: long enough to bring a
/// million of them near before the first is due.
pub const FAR_MS: i64 = 5 * 60_000;
/// Messages that stay in the record so: some twenty gigabytes of disk.
pub const LATER_MAX: usize = 100_000_000;
