//! What can go wrong, and what can be wrong: faults of the world, and deliberate bugs.

macro_rules! named {
    ($(#[$of:meta])* $name:ident: $($(#[$meta:meta])* $variant:ident $text:literal $meaning:literal,)+) => {
        $(#[$of])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $(#[doc = $meaning] $variant,)+
        }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// Its name on the command line.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// What it is, in words.
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)+ }
            }

            /// Reads a name.
            pub fn parse(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|one| one.as_str() == name)
            }
        }
    };
}

named! {
    /// What the simulated world does to correct code.
    Fault:
    Throttled "throttled" "A store says that it is asked too often, and does nothing.",
    AnswerLost "answer-lost" "A write landed, and nobody hears of it.",
    MeetsItself "meets-itself" "A retry inside the client meets the entry it wrote before.",
    WriteLost "write-lost" "A write never arrives, and nobody hears of it.",
    WriteLate "write-late" "A write arrives when nobody waits for it any more.",
    TornRead "torn-read" "A log is read in two pages, and others write between them.",
    ProducerRetry "producer-retry" "A producer hears nothing and puts a record again, under another sequence number.",
    Crash "crash" "A process ends between two steps and starts again with nothing in memory.",
    Zombie "zombie" "A process stands still while others do its work, then goes on with what it remembers.",
    ClockJump "clock-jump" "The clock jumps, forward or back; what lies far ahead of it is a dead letter, replayed until it counts.",
    ShardChange "shard-change" "A shard is split, or two are merged.",
    StreamLost "stream-lost" "The stream forgets what was not read yet.",
    TriggerLost "trigger-lost" "The roll-up is not told of a commit.",
    TriggerRepeated "trigger-repeated" "The roll-up is told of a commit twice.",
    Rollback "rollback" "PostgreSQL goes away before a transaction is committed.",
    CommitAnswerLost "commit-answer-lost" "PostgreSQL goes away after it, before it says so.",
    Replay "replay" "An object is read again, also after its month is closed.",
    Poison "poison" "A record on the stream, or of an object, that nobody can read.",
    Move "move" "An account gets another owner.",
    Late "late" "Objects arrive while the month is counted, closed and billed already.",
}

named! {
    /// A deliberate bug, on only where a test asks for it. Each is in the simulator's side of a port, so no product has it.
    Sabotage:
    Overwrites "overwrites" "an entry is put without the condition that nothing stands there",
    ConfirmsLost "confirms-lost" "a lost write is taken for a landed one",
    CacheFirst "cache-first" "what is known changes before the put is confirmed",
    IdentitiesApart "identities-apart" "identities are remembered in a write of their own, before the count",
    EventualLoad "eventual-load" "logs are read eventually consistent",
    EntryExpires "entry-expires" "an entry is deleted",
    CheckpointFirst "checkpoint-first" "a record is done before it is counted",
    CursorFirst "cursor-first" "the cursor moves before its rows, in a transaction of its own",
    CursorUnchecked "cursor-unchecked" "`<=` for `==`: rows are written wherever the cursor stands",
    DirectoryEarly "directory-early" "owners are read before the account is locked",
    RowsNotMoved "rows-not-moved" "a move leaves the rows of the account with the former owner",
    MarkersLast "markers-last" "what a sweep has to look at is left after what is acknowledged",
    LeftOversDropped "left-overs-dropped" "acknowledgements that a batch write leaves over are not sent again",
    SweepForgets "sweep-forgets" "a sweep takes markers away before it rolls up",
    IdentityOfDelivery "identity-of-delivery" "the identity of an event has the reading in it",
    ArrivalTime "arrival-time" "an event counts in the hour it is read in",
    RevisionIgnored "revision-ignored" "of two facts with one key the higher hash stands, whatever their revisions",
    ExportEarly "export-early" "a restated export is in force before its end is read",
    ManifestIsDone "manifest-is-done" "an object with a manifest is done, whatever is acknowledged",
    NameIsDone "name-is-done" "an object is done once anything of its name is, such as one record replayed",
    FutureDismissed "future-dismissed" "a record ahead of the clock is dismissed, and not replayed when the clock is right",
    PoisonDropped "poison-dropped" "a stream record that nobody can read is passed over",
    FoldToTheEnd "fold-to-the-end" "a close reads logs to their ends, and not up to its cut",
    NumberFirst "number-first" "an invoice's number is taken before the transaction that issues it",
    IssueTwice "issue-twice" "nothing keeps a month from being invoiced again",
    AdjustFromInvoice "adjust-from-invoice" "an adjustment is measured from the invoice, without those before it",
    MailFirst "mail-first" "mail is queued before the invoice is issued",
}
