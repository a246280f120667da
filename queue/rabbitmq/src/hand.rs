//! What a consumer has in hand, pure: which deliveries are new, which came twice, which are over.
//!
//! A message is known by its id, a lease of it by its token; a larger token is a later lease. The broker may deliver a
//! message again after a lost connection, and a dispatcher may publish one twice: whoever has it in hand keeps working
//! and only takes over the new delivery's tag, so that the work is done once.

use std::collections::VecDeque;
use std::sync::Arc;

use celesta_queue::{QueueName, Token};
use celesta_types::MessageId;
use hashbrown::{HashMap, HashSet};

use crate::limits::REMEMBERED;
use crate::wire::Delivery;

/// Names a delivery to the broker: valid on its own channel only.
#[derive(Debug, Clone)]
pub(crate) struct Tag<C> {
    /// Which channel of this consumer, counted.
    pub(crate) line: u64,
    /// The broker's number.
    pub(crate) number: u64,
    /// The channel.
    pub(crate) channel: C,
}

/// A delivery in hand.
#[derive(Debug, Clone)]
pub(crate) struct Held<C> {
    pub(crate) queue: QueueName,
    pub(crate) attempt: u32,
    pub(crate) token: Token,
    pub(crate) reply_to: Arc<str>,
    tag: Tag<C>,
}

/// What to do with a delivery.
#[derive(Debug)]
pub(crate) enum Arrival<C> {
    /// It is new.
    Give,
    /// It is a later lease of a message in hand: that one is over, its delivery to be acknowledged.
    Supersede(Token, Tag<C>),
    /// It is in hand already, and was delivered again.
    Known,
    /// It is of no use; to be acknowledged.
    Drop(Tag<C>),
}

/// All deliveries in hand.
#[derive(Debug)]
pub(crate) struct Hand<C> {
    held: HashMap<MessageId, Held<C>>,
    settled: HashSet<(MessageId, Token)>,
    order: VecDeque<(MessageId, Token)>,
}

impl<C> Default for Hand<C> {
    fn default() -> Self {
        Self {
            held: HashMap::new(),
            settled: HashSet::new(),
            order: VecDeque::new(),
        }
    }
}

impl<C> Hand<C> {
    /// A delivery has come.
    pub(crate) fn arrive(&mut self, delivery: &Delivery, tag: Tag<C>) -> Arrival<C> {
        let Delivery { id, token, .. } = *delivery;
        if self.settled.contains(&(id, token)) {
            return Arrival::Drop(tag);
        }
        if let Some(held) = self.held.get_mut(&id) {
            if token < held.token {
                return Arrival::Drop(tag);
            }
            if token == held.token {
                if held.tag.line == tag.line {
                    return Arrival::Drop(tag);
                }
                // The channel it came through before is gone, and its tag with it.
                held.tag = tag;
                return Arrival::Known;
            }
        }
        let now = Held {
            queue: delivery.queue.clone(),
            attempt: delivery.attempt,
            token,
            reply_to: Arc::clone(&delivery.reply_to),
            tag,
        };
        self.held.insert(id, now).map_or(Arrival::Give, |before| {
            Arrival::Supersede(before.token, before.tag)
        })
    }

    /// The delivery of that lease, if it is in hand.
    pub(crate) fn find(&self, id: MessageId, token: Token) -> Option<&Held<C>> {
        self.held.get(&id).filter(|held| held.token == token)
    }

    /// The token in hand that `token` means: that one, or whatever there is.
    pub(crate) fn meant(&self, id: MessageId, token: Option<Token>) -> Option<Token> {
        let held = self.held.get(&id)?.token;
        token.is_none_or(|token| token == held).then_some(held)
    }

    /// Everything in hand.
    pub(crate) fn all(&self) -> impl Iterator<Item = (MessageId, &Held<C>)> {
        self.held.iter().map(|(id, held)| (*id, held))
    }

    /// The report about it has arrived: the delivery is to be acknowledged now.
    pub(crate) fn settled(&mut self, id: MessageId, token: Token) -> Option<Tag<C>> {
        self.find(id, token)?;
        let held = self.held.remove(&id)?;
        self.remember(id, token);
        Some(held.tag)
    }

    fn remember(&mut self, id: MessageId, token: Token) {
        if self.settled.insert((id, token)) {
            self.order.push_back((id, token));
        }
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.settled.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use celesta_types::{Priority, Timestamp};

    fn delivery(token: u64) -> Delivery {
        Delivery {
            id: MessageId::from_bits(1),
            queue: QueueName::new("q").expect("a name"),
            key: None,
            priority: Priority::default(),
            attempt: 1,
            attempts_max: 5,
            token: Token::from_bits(token),
            enqueued_at: Timestamp::from_millis(0),
            metadata: Vec::new(),
            payload: Arc::from(*b""),
            reply_to: "r".into(),
        }
    }

    const fn tag(line: u64, number: u64) -> Tag<()> {
        Tag {
            line,
            number,
            channel: (),
        }
    }

    #[test]
    fn a_delivery_that_comes_again_is_worked_on_once() {
        let mut hand = Hand::default();
        let id = MessageId::from_bits(1);
        assert!(matches!(hand.arrive(&delivery(7), tag(1, 1)), Arrival::Give));
        // A second copy on the same channel is dropped; on a new channel it takes over.
        assert!(matches!(hand.arrive(&delivery(7), tag(1, 2)), Arrival::Drop(tag) if tag.number == 2));
        assert!(matches!(hand.arrive(&delivery(7), tag(2, 1)), Arrival::Known));
        let tag_now = hand.settled(id, Token::from_bits(7)).expect("in hand");
        assert_eq!((tag_now.line, tag_now.number), (2, 1));
        assert!(matches!(hand.arrive(&delivery(7), tag(3, 1)), Arrival::Drop(_)));
    }

    #[test]
    fn a_later_lease_takes_the_place_of_an_earlier_one() {
        let mut hand = Hand::default();
        let id = MessageId::from_bits(1);
        assert!(matches!(hand.arrive(&delivery(7), tag(1, 1)), Arrival::Give));
        let arrival = hand.arrive(&delivery(8), tag(1, 2));
        assert!(matches!(arrival, Arrival::Supersede(token, tag) if token.bits() == 7 && tag.number == 1));
        assert!(matches!(hand.arrive(&delivery(7), tag(1, 3)), Arrival::Drop(_)));
        assert!(hand.settled(id, Token::from_bits(7)).is_none());
        assert_eq!(hand.meant(id, None), Some(Token::from_bits(8)));
        assert_eq!(hand.meant(id, Some(Token::from_bits(7))), None);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut hand = Hand::<()>::default();
        for id in 0..=REMEMBERED {
            hand.remember(MessageId::from_bits(id as u128), Token::from_bits(1));
        }
        assert_eq!((hand.settled.len(), hand.order.len()), (REMEMBERED, REMEMBERED));
    }
}
