//! Every bound of the road, with its reason.

use std::time::Duration;

/// Messages of one destination on the road and in nobody's hands: enough to keep many consumers busy for the few
/// milliseconds a lease takes, few enough that order is decided by the record and not by the broker.
pub const WINDOW: usize = 1_024;
/// Messages leased and published in one go: one wait for confirms serves them all.
pub const BATCH: usize = 256;
/// Batches of one destination that wait for their confirms: the broker syncs its disk while the next is published.
pub const BATCHES_IN_THE_AIR: usize = 4;
/// How long a lease on the road holds; it is extended for as long as the message is looked after.
pub const LEASE: Duration = Duration::from_secs(30);
/// How long a message may lie in the broker. Then the broker drops it and the dispatcher gives the lease back, so that a
/// copy that was lost is noticed, and a message that waits long is ordered anew among those that came meanwhile.
pub const ROAD_TIME: Duration = Duration::from_secs(60);
/// A consumer that has said nothing for so long is taken for gone: its leases are not extended any more.
pub const SILENCE: Duration = Duration::from_secs(15);
/// How often a consumer says what it holds; several of these fit into [`SILENCE`].
pub const HOLD_EVERY: Duration = Duration::from_secs(1);
/// Levels of the broker's queues beside zero: two for each of the five classes. `RabbitMQ` keeps a queue for each
/// level and advises against more than ten.
pub const PRIORITY_LEVEL_MAX: u8 = 9;
/// Bytes of a name in the broker: a short string of the protocol.
pub const NAME_BYTES_MAX: usize = 255;
/// Reports in one message to the dispatcher.
pub const REPORTS_MAX: usize = 256;
/// Bytes of reports in one message, beyond which the next begins: the broker likes small messages.
pub const REPORT_BYTES: usize = 256 * 1024;
/// Messages of reports that may be unacknowledged at a dispatcher: what one commit takes.
pub const REPORTS_PREFETCH: u16 = 64;
/// How long the queue of a dispatcher that is gone keeps its reports. Its leases are over long before.
pub const REPORTS_KEPT: Duration = Duration::from_secs(3_600);
/// Notices that wait to be sent; more are dropped: a consumer learns the same from the end of its lease.
pub const NOTICES_WAITING: usize = 1_024;
/// Deliveries a consumer remembers as settled, to drop copies that come again.
pub const REMEMBERED: usize = 65_536;
/// Deliveries a consumer asks the broker for at most.
pub const PREFETCH_MAX: u16 = 10_000;
/// The first wait before a lost connection is tried again; it doubles.
pub const RETRY_FIRST: Duration = Duration::from_millis(100);
/// The longest wait: a broker that is back is found within seconds.
pub const RETRY_MAX: Duration = Duration::from_secs(10);
/// How long connecting may take, login included.
pub const CONNECT_TIME: Duration = Duration::from_secs(10);
/// Seconds between heartbeats: a connection that is dead on the other side is noticed after two.
pub const HEARTBEAT_S: u16 = 10;
