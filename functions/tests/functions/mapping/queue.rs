//! The mapping of a standard SQS queue, and the queue.

use std::collections::BTreeMap;

use super::Millis;
use super::answer::{Verdict, read};
use super::random::Random;
use crate::runtime_api::Outcome;

/// "Creating and configuring an Amazon SQS event source mapping"; Amazon SQS Developer Guide for the queue's own.
#[derive(Clone, Debug)]
pub(crate) struct QueueSettings {
    /// `BatchSize`, 1 to 10,000; above 10 a window is required.
    pub(crate) batch_size: usize,
    /// `MaximumBatchingWindowInSeconds`, 0 to 300 s.
    pub(crate) batch_window: Millis,
    /// `ReportBatchItemFailures`.
    pub(crate) reports: bool,
    /// `MaximumConcurrency`, 2 to 1,000.
    pub(crate) concurrency_max: usize,
    /// The queue's visibility timeout, 0 to 12 h; AWS advises six times the function's timeout.
    pub(crate) visibility_timeout: Millis,
    /// `maxReceiveCount` of the redrive policy.
    pub(crate) receives_max: u32,
}

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) id: String,
    pub(crate) body: String,
    pub(crate) sent_at: Millis,
    /// How often it was received.
    pub(crate) receives: u32,
    visible_at: Millis,
}

/// One invocation.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    pub(crate) id: u64,
    pub(crate) messages: Vec<Message>,
}

/// The mapping and its queue.
#[derive(Debug)]
pub(crate) struct QueueMapping {
    settings: QueueSettings,
    messages: BTreeMap<String, Message>,
    under_way: BTreeMap<u64, Vec<String>>,
    gathering_since: Option<Millis>,
    next_batch: u64,
    random: Random,
    /// What went to the dead-letter queue.
    pub(crate) dead: Vec<Message>,
}

impl QueueMapping {
    /// The dice decide which of the visible messages come, in which order, and which come twice.
    pub(crate) fn new(settings: QueueSettings, random: Random) -> Self {
        assert!((1..=10_000).contains(&settings.batch_size));
        assert!(settings.batch_size <= 10 || 1_000 <= settings.batch_window, "a batch above 10 needs a window");
        assert!((2..=1_000).contains(&settings.concurrency_max));
        let (messages, under_way) = (BTreeMap::new(), BTreeMap::new());
        Self { settings, messages, under_way, gathering_since: None, next_batch: 1, random, dead: Vec::new() }
    }

    pub(crate) fn send(&mut self, id: String, body: String, now: Millis) {
        let message = Message { id: id.clone(), body, sent_at: now, receives: 0, visible_at: now };
        assert!(self.messages.insert(id, message).is_none());
    }

    /// The invocations to make now.
    pub(crate) fn due(&mut self, now: Millis) -> Vec<Batch> {
        let mut batches = Vec::new();
        while self.under_way.len() < self.settings.concurrency_max {
            let visible = self.messages.values().filter(|message| message.visible_at <= now);
            let mut visible: Vec<String> = visible.map(|message| message.id.clone()).collect();
            if visible.is_empty() {
                self.gathering_since = None;
                break;
            }
            let since = *self.gathering_since.get_or_insert(now);
            if visible.len() < self.settings.batch_size && now < since + self.settings.batch_window {
                break;
            }
            // A standard queue keeps no order.
            self.random.shuffle(&mut visible);
            visible.truncate(self.settings.batch_size);
            let messages = self.receive(visible, now);
            self.gathering_since = None;
            if messages.is_empty() {
                continue;
            }
            let id = self.next_batch;
            self.next_batch += 1;
            self.under_way.insert(id, messages.iter().map(|message| message.id.clone()).collect());
            batches.push(Batch { id, messages });
        }
        batches
    }

    fn receive(&mut self, ids: Vec<String>, now: Millis) -> Vec<Message> {
        let mut received = Vec::new();
        for id in ids {
            let message = self.messages.get_mut(&id).expect("it is visible");
            message.receives += 1;
            // Amazon SQS Developer Guide, "Using dead-letter queues": once the count exceeds the maximum, it is moved.
            if self.settings.receives_max < message.receives {
                self.dead.extend(self.messages.remove(&id));
                continue;
            }
            // At least once: now and then a message that was received stays visible.
            if !self.random.one_in(30) {
                message.visible_at = now + self.settings.visibility_timeout;
            }
            received.push(message.clone());
        }
        received
    }

    /// When the next invocation may be due, unless something arrives or ends before.
    pub(crate) fn next_at(&self, now: Millis) -> Option<Millis> {
        if self.settings.concurrency_max <= self.under_way.len() {
            return None;
        }
        let first = self.messages.values().map(|message| message.visible_at).min()?;
        Some(match self.gathering_since {
            Some(since) if first <= now => since + self.settings.batch_window,
            _ => first,
        })
    }

    /// An invocation has ended. What succeeded is deleted; the rest becomes visible when its timeout is over.
    ///
    /// "Handling errors for an SQS event source in Lambda".
    pub(crate) fn complete(&mut self, batch: u64, outcome: &Outcome) {
        let ids = self.under_way.remove(&batch).expect("it is under way");
        let failed = match read(outcome, self.settings.reports) {
            Verdict::Done => Vec::new(),
            // A message id that does not exist fails the whole batch.
            Verdict::Again(items) if items.iter().all(|item| ids.contains(item)) => items,
            Verdict::Again(_) | Verdict::Failed => return,
        };
        for id in ids.iter().filter(|id| !failed.contains(id)) {
            self.messages.remove(id);
        }
    }

    /// Whether nothing is left to deliver.
    pub(crate) fn is_done(&self) -> bool {
        self.messages.is_empty() && self.under_way.is_empty()
    }
}
