//! The command line. Its machine-readable forms are described in `docs/cli.md`.

mod prices;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use self::prices::{
    Agree, CouponAdd, Coupons, PromotionAdd, RateCards, RetroactiveArgument, Simulate, TaxRates,
};

/// Usage metering and billing for AWS landing zones: from delivered logs to invoices that prove themselves.
///
/// All local state lives in one directory, --home. The first command that needs the stores starts them in its own
/// process (Kinesis and DynamoDB embedded, PostgreSQL as a private cluster, or DATABASE_URL); others join it.
///
/// Start with `securebase demo`, or with your own logs:
///
///     securebase replay /logs/AWSLogs
///     securebase customers add acme --name "Acme AG" --tier fintech --contract-start 2026-01-01T00:00:00Z
///     securebase accounts register 123456789012 --customer acme --from 2026-01-01T00:00:00Z
///     securebase usage --all --group-by account,day
///     securebase invoice run --period 2026-10
#[derive(Debug, Parser)]
#[command(name = "securebase", version, max_term_width = 110, verbatim_doc_comment)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    /// The one directory with all local state
    #[arg(long, global = true, value_name = "DIR", env = "SECUREBASE_HOME", default_value = ".securebase")]
    pub(crate) home: PathBuf,
    /// Print JSON instead of text
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Where the stream and tables are: embedded in this process, or in AWS by the usual AWS settings
    #[arg(long, global = true, value_enum, env = "SECUREBASE_STORES", default_value_t = StoresChoice::Local)]
    pub(crate) stores: StoresChoice,
    /// Name of the Kinesis stream, and prefix of the DynamoDB table names
    // Not `name`: an option of a subcommand with the same id would set this one.
    #[arg(long, global = true, value_name = "NAME", env = "SECUREBASE_NAME", default_value = "securebase")]
    pub(crate) deployment: String,
    /// Login that may migrate the database and take on its roles; local stores start a private PostgreSQL without it
    #[arg(long, global = true, value_name = "URL", env = "DATABASE_URL", hide_env_values = true)]
    pub(crate) database_url: Option<String>,
    /// Login of the API, which is securebase_app and can become nothing else; required to serve from stores in AWS
    #[arg(long, global = true, value_name = "URL", env = "SECUREBASE_APP_DATABASE_URL", hide_env_values = true)]
    pub(crate) app_database_url: Option<String>,
    /// How old a batch may become before it is committed: longer costs fewer write units, shorter is fresher
    #[arg(long, global = true, value_name = "MS", env = "SECUREBASE_FLUSH_MS", default_value_t = 1_000)]
    pub(crate) flush_ms: u64,
    /// Which source each meter is counted from (docs/counting.md); DIR/sources.toml, if it is there, without this
    #[arg(long, global = true, value_name = "FILE", env = "SECUREBASE_SOURCES")]
    pub(crate) sources: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum StoresChoice {
    Local,
    Aws,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// The whole chain on real input: three customers, their logs, an invoice, a live API
    Demo(Demo),
    /// Read log files into the counters; returns when everything is counted and rolled up
    Replay(Replay),
    /// Keep the stores, the aggregator and the API up until Ctrl-C
    Serve(Serve),
    /// Show usage
    Usage(Usage),
    /// Customers
    #[command(subcommand)]
    Customers(Customers),
    /// Which AWS account belongs to whom, since when
    #[command(subcommand)]
    Accounts(Accounts),
    /// What is counted and measured, and what is missing
    #[command(subcommand)]
    Meters(Meters),
    /// Draft, issue and show invoices
    /// Draft, issue, credit and show invoices, record payments
    #[command(subcommand)]
    Invoice(Invoice),
    /// Prices of tiers and contracts, from TOML files
    #[command(subcommand)]
    RateCards(RateCards),
    /// Rate past usage with other prices and show the difference per customer; changes nothing
    Simulate(Simulate),
    /// Change what is agreed on with a customer
    #[command(subcommand)]
    Agree(Agree),
    /// Coupons and promotional credits
    #[command(subcommand)]
    Coupons(Coupons),
    /// Tax rates by jurisdiction
    #[command(subcommand)]
    TaxRates(TaxRates),
    /// Close a month: fix what customers' usage came to, with evidence, or say what is missing
    ///
    /// Exits with 3 when something is missing and the month of a customer stays open.
    Close(Close),
    /// The evidence of closes
    #[command(subcommand)]
    Evidence(Evidence),
    /// Count logs again with a naive recount, and name every difference
    ///
    /// With --period: to the counters, usage rows, closes and invoices of these stores. With --evidence: to an evidence
    /// file, without any stores. Exits with 4 when something differs.
    Verify(Verify),
    /// What the sources of meters should have delivered, and what of it is counted
    #[command(subcommand)]
    Receipts(Receipts),
    /// Mail to customers: what waits, what was sent, where it goes
    #[command(subcommand)]
    Outbox(Outbox),
    /// Records that were set aside with a reason
    #[command(subcommand)]
    DeadLetters(DeadLetters),
    /// Which source each meter is counted from
    Sources(Sources),
    /// What CloudTrail's digest files prove: how far, what is missing, what was altered
    Digests(Digests),
    /// The trail of what was done: follow its chains, write down their ends
    #[command(subcommand)]
    Audit(Audit),
    /// Keys with which customers and operators ask the API
    #[command(subcommand)]
    Keys(Keys),
    /// What the stores hold and what is still on its way
    Status,
    /// Print a script that lets a shell complete this command line
    ///
    /// bash: `securebase completions bash > ~/.local/share/bash-completion/completions/securebase`;
    /// zsh: into a file `_securebase` of a directory in $fpath; fish: into ~/.config/fish/completions/securebase.fish
    Completions(Completions),
}

#[derive(Debug, Args)]
pub(crate) struct Sources {
    #[command(subcommand)]
    pub(crate) command: Option<SourcesCommand>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SourcesCommand {
    /// Sum up a FOCUS export as it is written, to compare with the bill; nothing of it is counted
    Inspect {
        /// The export, gzip or not
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Replay the log files of this folder instead of generated ones
    #[arg(long, value_name = "DIR")]
    pub(crate) logs: Option<PathBuf>,
    /// Events to generate when no logs are given
    #[arg(long, default_value_t = 50_000)]
    pub(crate) events: u64,
    /// Leave after the invoice instead of serving the API until Ctrl-C
    #[arg(long)]
    pub(crate) exit: bool,
    /// Where the API listens; another free port is taken when this one is not
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    pub(crate) listen: SocketAddr,
}

#[derive(Debug, Args)]
pub(crate) struct Replay {
    /// Log files and any other delivery, folders (read whole, in order of name) and globs
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<String>,
    /// Skip objects that an earlier run has read and counted to the end
    #[arg(long)]
    pub(crate) resume: bool,
    /// Where the objects are that notices name: DIR/BUCKET/KEY or DIR/KEY; without it S3, with stores in AWS
    #[arg(long, value_name = "DIR")]
    pub(crate) objects: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Digests {
    /// Only digests whose hour ends behind this instant, RFC 3339
    #[arg(long, value_name = "TIME")]
    pub(crate) from: Option<String>,
    /// Only digests whose hour ends by this instant, RFC 3339
    #[arg(long, value_name = "TIME")]
    pub(crate) to: Option<String>,
    /// Check signatures with these keys: what `aws cloudtrail list-public-keys` prints
    #[arg(long, value_name = "FILE")]
    pub(crate) public_keys: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Where the API listens
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    pub(crate) listen: SocketAddr,
}

#[derive(Debug, Args)]
pub(crate) struct Usage {
    /// Every account, those of no customer included
    #[arg(long, conflicts_with = "customer")]
    pub(crate) all: bool,
    /// One customer's accounts
    #[arg(long, value_name = "ID")]
    pub(crate) customer: Option<String>,
    /// What was counted
    #[arg(long, default_value = "cloudtrail_events")]
    pub(crate) meter: String,
    /// First hour, RFC 3339
    #[arg(long, value_name = "TIME", default_value = "2000-01-01T00:00:00Z")]
    pub(crate) from: String,
    /// End of the last hour (half-open), RFC 3339
    #[arg(long, value_name = "TIME", default_value = "2100-01-01T00:00:00Z")]
    pub(crate) to: String,
    /// account, region, category, customer, and one of hour, day, month
    #[arg(long, value_name = "KEYS", default_value = "account,month")]
    pub(crate) group_by: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Customers {
    /// Add a customer; saying the same again changes nothing
    Add(CustomerAdd),
}

#[derive(Debug, Args)]
pub(crate) struct CustomerAdd {
    /// Lower-case letters, digits and hyphens; kept for ever
    #[arg(value_name = "ID")]
    pub(crate) customer: String,
    /// The name on its invoices
    #[arg(long)]
    pub(crate) name: String,
    /// standard, fintech, healthcare or gov-federal
    #[arg(long)]
    pub(crate) tier: String,
    /// First hour of the contract, RFC 3339
    #[arg(long, value_name = "TIME")]
    pub(crate) contract_start: String,
    /// Fraction of the net amount that is tax
    #[arg(long, default_value = "0.08")]
    pub(crate) tax_rate: String,
    /// The address on its invoices
    #[arg(long, default_value = "")]
    pub(crate) address: String,
    /// Its tax number
    #[arg(long, default_value = "")]
    pub(crate) tax_id: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Accounts {
    /// Every account with usage or an owner
    List {
        /// Only those with usage of no customer, or never anybody's
        #[arg(long)]
        unknown: bool,
    },
    /// Make a customer the owner of an account from an hour on; usage already counted follows
    Register(AccountRegister),
    /// Every organization that was registered or that accounts were seen in
    Organizations,
    /// Make a customer the owner of an organization from an hour on; its accounts follow, with their usage
    RegisterOrganization(OrganizationRegister),
}

#[derive(Debug, Args)]
pub(crate) struct OrganizationRegister {
    /// Such as o-exampleorgid
    #[arg(value_name = "ORGANIZATION")]
    pub(crate) organization: String,
    /// The owner
    #[arg(long, value_name = "ID")]
    pub(crate) customer: String,
    /// First hour of ownership, RFC 3339
    #[arg(long, value_name = "TIME")]
    pub(crate) from: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Meters {
    /// Every meter: how its values add up, in which unit
    List,
    /// Define sample meters from a TOML file; saying the same again changes nothing
    Define {
        /// The file: one `[[meter]]` with name, aggregation, description and gap_seconds_max each
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Stretches between samples that lie too far apart, and resources that are sampled no more
    Missing,
}

#[derive(Debug, Args)]
pub(crate) struct AccountRegister {
    /// 12 digits
    #[arg(value_name = "ACCOUNT")]
    pub(crate) account: String,
    /// The owner
    #[arg(long, value_name = "ID")]
    pub(crate) customer: String,
    /// First hour of ownership, RFC 3339
    #[arg(long, value_name = "TIME")]
    pub(crate) from: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Invoice {
    /// Issue the invoices of a month; customers that have theirs keep it
    Run(InvoiceRun),
    /// What a month would come to with what is counted so far; writes nothing
    Preview(InvoicePreview),
    /// Invoices and drafts, newest first
    List(InvoiceList),
    /// Show one invoice, draft or credit note, or write it as a file
    Show(InvoiceShow),
    /// Issue one invoice by hand: of a month, of late usage, or of a year in advance
    Issue(InvoiceIssue),
    /// Credit an invoice whole; what was paid becomes the customer's credit
    Credit(InvoiceReason),
    /// Credit an invoice whole and issue its month again, with the newest close and today's terms
    Reissue(InvoiceReason),
    /// Record a payment
    Pay(InvoicePay),
    /// Give a customer credit, which its next invoices use
    Grant(InvoiceGrant),
    /// Discard a draft; what was issued is credited instead
    Void(InvoiceReason),
    /// Put into the outbox what customers are to be told today: due soon, overdue, limits of their tier
    Remind,
}

#[derive(Debug, Args)]
pub(crate) struct InvoiceRun {
    /// The month, such as 2026-10
    #[arg(long, value_name = "MONTH")]
    pub(crate) period: String,
    /// Only this customer
    #[arg(long, value_name = "ID")]
    pub(crate) customer: Option<String>,
    /// Show what would be issued and write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Hours after the month in which late usage is waited for, unless the month is proven complete
    #[arg(long, value_name = "HOURS", default_value_t = billing::GRACE_HOURS)]
    pub(crate) grace_hours: u32,
    /// How many customers are billed at once
    #[arg(long, value_name = "N", default_value_t = billing::WORKERS)]
    pub(crate) workers: usize,
}

#[derive(Debug, Args)]
pub(crate) struct InvoiceShow {
    /// Such as INV-2026-11-0001 or CN-2026-11-0001; the id of a draft
    #[arg(value_name = "NUMBER")]
    pub(crate) number: String,
    /// As what
    #[arg(long, value_enum, default_value_t = InvoiceForm::Text)]
    pub(crate) format: InvoiceForm,
    /// Write a file instead; a PDF goes to NUMBER.pdf without
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum InvoiceForm {
    /// A table for the terminal, with payments and what is open
    Text,
    /// For programs: all of it
    Json,
    /// One page that prints well
    Html,
    /// One row a line
    Csv,
    /// As it was rendered once after the issue, the same bytes for ever
    Pdf,
}

#[derive(Debug, Args)]
pub(crate) struct InvoicePreview {
    /// The month, such as 2026-10; this month without
    #[arg(long, value_name = "MONTH")]
    pub(crate) period: Option<String>,
    /// Only this customer
    #[arg(long, value_name = "ID")]
    pub(crate) customer: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct InvoiceList {
    /// Only of this customer
    #[arg(long, value_name = "ID")]
    pub(crate) customer: Option<String>,
    /// Only in this state: draft, issued, overdue, paid, credited or cancelled
    #[arg(long, value_name = "STATE")]
    pub(crate) status: Option<String>,
    /// Only of this month
    #[arg(long, value_name = "MONTH")]
    pub(crate) period: Option<String>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(crate) limit: u32,
}

#[derive(Debug, Args)]
pub(crate) struct InvoiceIssue {
    /// Whose
    #[arg(value_name = "CUSTOMER")]
    pub(crate) customer: String,
    #[command(flatten)]
    pub(crate) of: IssueOf,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct IssueOf {
    /// This month, also when its draft was discarded
    #[arg(long, value_name = "MONTH")]
    pub(crate) period: Option<String>,
    /// Late usage of invoiced months, for a customer without a next invoice
    #[arg(long)]
    pub(crate) late_usage: bool,
    /// Twelve months of the fee from this day on, such as 2027-01-01
    #[arg(long, value_name = "DAY")]
    pub(crate) prepay_from: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct InvoiceReason {
    /// Such as INV-2026-11-0001; the id of a draft
    #[arg(value_name = "NUMBER")]
    pub(crate) number: String,
    /// Why: for the customer to read, and for the audit trail
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: String,
}

#[derive(Debug, Args)]
pub(crate) struct InvoicePay {
    /// Such as INV-2026-11-0001
    #[arg(value_name = "NUMBER")]
    pub(crate) number: String,
    /// What names the payment at the bank; the same again is the same payment
    #[arg(long, value_name = "TEXT")]
    pub(crate) reference: String,
    /// How much; all that is open without
    #[arg(long, value_name = "AMOUNT")]
    pub(crate) amount: Option<String>,
    /// bank_transfer, card, marketplace or other
    #[arg(long, default_value = "bank_transfer")]
    pub(crate) method: String,
    /// When it came in, RFC 3339; now without
    #[arg(long, value_name = "TIME")]
    pub(crate) received: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct InvoiceGrant {
    /// To whom
    #[arg(value_name = "CUSTOMER")]
    pub(crate) customer: String,
    /// How much, in the customer's currency
    #[arg(long, value_name = "AMOUNT")]
    pub(crate) amount: String,
    /// What names it; the same again is the same grant
    #[arg(long, value_name = "TEXT")]
    pub(crate) reference: String,
    /// Why, for the audit trail
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: String,
    /// A gift, and not money that was paid ahead
    #[arg(long)]
    pub(crate) goodwill: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Outbox {
    /// What waits, was sent or was given up, newest first
    List {
        /// Only in this state: pending, sent or failed
        #[arg(long, value_name = "STATE")]
        state: Option<String>,
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: u32,
    },
    /// Render missing documents and send what is due: into a folder locally, through SES with stores in AWS
    Send {
        /// At most so many messages
        #[arg(long, value_name = "N", default_value_t = 1_000)]
        limit: u64,
    },
    /// Have given-up messages tried again
    Retry,
    /// Record what SES says about messages (bounces, complaints, deliveries), one event a line
    Feedback {
        /// A file; `-` is standard input
        #[arg(value_name = "FILE")]
        file: String,
    },
    /// Where mail goes
    Recipients {
        /// Only of this customer
        #[arg(long, value_name = "ID")]
        customer: Option<String>,
    },
    /// Add an address of a customer, or take it up again after it bounced
    AddRecipient {
        /// Whose
        #[arg(value_name = "CUSTOMER")]
        customer: String,
        /// Such as billing@example.com
        #[arg(value_name = "ADDRESS")]
        address: String,
    },
    /// Send nothing to an address any more
    SuppressRecipient {
        /// Whose
        #[arg(value_name = "CUSTOMER")]
        customer: String,
        /// The address
        #[arg(value_name = "ADDRESS")]
        address: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Close {
    /// The month, such as 2026-10
    #[arg(long, value_name = "MONTH")]
    pub(crate) period: String,
    /// Only this customer
    #[arg(long, value_name = "ID")]
    pub(crate) customer: Option<String>,
    /// Close although something is missing, for this reason; audited, and in the evidence
    #[arg(long, value_name = "REASON")]
    pub(crate) r#override: Option<String>,
    /// Who closes
    #[arg(long, value_name = "NAME", env = "SECUREBASE_OPERATOR", default_value = "operator")]
    pub(crate) by: String,
    /// Only look
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Evidence {
    /// Write the evidence file of a close
    Export(EvidenceExport),
}

#[derive(Debug, Args)]
pub(crate) struct EvidenceExport {
    /// The month, such as 2026-10
    #[arg(long, value_name = "MONTH")]
    pub(crate) period: String,
    /// Whose
    #[arg(long, value_name = "ID")]
    pub(crate) customer: String,
    /// Which cut; the last one without
    #[arg(long, value_name = "NUMBER")]
    pub(crate) cut: Option<i32>,
    /// Add every identity behind the evidence, read from the logs again
    #[arg(long)]
    pub(crate) with_identities: bool,
    /// Where to; standard output without
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("against").required(true).args(["period", "evidence"]))]
pub(crate) struct Verify {
    /// Log files, folders and globs
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<String>,
    /// The month, such as 2026-10, in these stores
    #[arg(long, value_name = "MONTH")]
    pub(crate) period: Option<String>,
    /// Only this customer's closes and invoices
    #[arg(long, value_name = "ID", requires = "period")]
    pub(crate) customer: Option<String>,
    /// An evidence file
    #[arg(long, value_name = "FILE")]
    pub(crate) evidence: Option<PathBuf>,
    /// The invoice the evidence is for, as JSON
    #[arg(long, value_name = "FILE", requires = "evidence")]
    pub(crate) invoice: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Receipts {
    /// Say which source feeds a customer's meter and what it promises; in place of what was said before
    Declare(ReceiptsDeclare),
    /// Through which hour each declared source is complete, and what the next hour waits for
    List {
        /// Only this customer
        #[arg(long, value_name = "ID")]
        customer: Option<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ReceiptsDeclare {
    /// Whose
    #[arg(long, value_name = "ID")]
    pub(crate) customer: String,
    /// Of which meter
    #[arg(long, value_name = "METER", default_value = "cloudtrail_events")]
    pub(crate) meter: String,
    /// proven, reconciled or best-effort
    #[arg(long, value_name = "CLASS")]
    pub(crate) class: String,
    /// What delivers
    #[arg(long, value_name = "WORD", default_value = "cloudtrail_digests")]
    pub(crate) kind: String,
    /// From which hour on it is expected to say everything, RFC 3339
    #[arg(long, value_name = "TIME")]
    pub(crate) since: String,
    /// How much later than an event its record may be delivered
    #[arg(long, value_name = "SECONDS", default_value_t = 3_600)]
    pub(crate) lateness_seconds: u32,
    /// The one trail that must be whole, where several deliver
    #[arg(long, value_name = "NAME")]
    pub(crate) trail: Option<String>,
    /// REGION/TRAIL that every account has, besides those it is seen to have; may be given again
    #[arg(long = "lane", value_name = "LANE")]
    pub(crate) lanes: Vec<String>,
    /// Who says so
    #[arg(long, value_name = "NAME", env = "SECUREBASE_OPERATOR", default_value = "operator")]
    pub(crate) by: String,
}

#[derive(Debug, Args)]
pub(crate) struct DeadLettersExport {
    /// Only these; all open ones without
    #[arg(value_name = "ID")]
    pub(crate) ids: Vec<String>,
    /// Resolved and dismissed ones too
    #[arg(long)]
    pub(crate) all: bool,
    /// Where to; standard output without
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct DeadLettersDismiss {
    /// Which
    #[arg(required = true, value_name = "ID")]
    pub(crate) ids: Vec<String>,
    /// Why they are no usage
    #[arg(long, value_name = "REASON")]
    pub(crate) reason: String,
    /// Who says so
    #[arg(long, value_name = "NAME", env = "SECUREBASE_OPERATOR", default_value = "operator")]
    pub(crate) by: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DeadLetters {
    /// Write dead letters whole, as lines of JSON
    Export(DeadLettersExport),
    /// Say that dead letters are no usage; audited, and in the evidence of their month
    Dismiss(DeadLettersDismiss),
    /// The open ones, oldest first
    List {
        /// Resolved ones too
        #[arg(long)]
        all: bool,
    },
    /// Judge open ones again and count what counts now, exactly once
    Replay {
        /// Only these; all open ones without
        #[arg(value_name = "ID")]
        ids: Vec<String>,
        /// Where the objects are that notices name, as for replay
        #[arg(long, value_name = "DIR")]
        objects: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// Which shell
    #[arg(value_enum, value_name = "SHELL")]
    pub(crate) shell: clap_complete::Shell,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Audit {
    /// Compute every chain again, and compare with the heads that were archived; exit code 1 when anything was changed
    Verify(AuditArchive),
    /// Write down today's heads, and the months that ended 90 days ago; what is there is left
    Archive(AuditArchive),
}

#[derive(Debug, Args)]
pub(crate) struct AuditArchive {
    /// A folder, or s3://BUCKET/PREFIX with object lock; a home has its own
    #[arg(long, value_name = "PLACE", env = "SECUREBASE_AUDIT_ARCHIVE")]
    pub(crate) archive: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Keys {
    /// Make a key and show it, this once
    Create(KeyCreate),
    /// The keys of a customer, or all, newest first; never a secret
    List {
        /// Only this customer's
        #[arg(long, value_name = "ID")]
        customer: Option<String>,
    },
    /// Refuse a key and its sessions from the next request on
    Revoke {
        /// The 16 letters and digits that `keys list` shows
        #[arg(value_name = "KEY_ID")]
        key: String,
    },
    /// Make a successor with the same rights and show it, this once; the key itself goes on for a while
    Rotate {
        /// The 16 letters and digits that `keys list` shows
        #[arg(value_name = "KEY_ID")]
        key: String,
        /// How long both are in force, in hours, at most 168
        #[arg(long, value_name = "HOURS", default_value_t = 24)]
        overlap: u32,
    },
}

#[derive(Debug, Args)]
pub(crate) struct KeyCreate {
    /// Whose key
    #[arg(long, value_name = "ID", required_unless_present = "admin", conflicts_with = "admin")]
    pub(crate) customer: Option<String>,
    /// An operator's key, for /v1/admin
    #[arg(long)]
    pub(crate) admin: bool,
    /// What it is for
    #[arg(long, value_name = "TEXT")]
    pub(crate) name: String,
    /// read:usage, read:invoices, read:audit, write:keys, write:config; separated by commas
    #[arg(long, value_name = "SCOPES", default_value = "read:usage,read:invoices")]
    pub(crate) scopes: String,
    /// From when on it is refused, RFC 3339; never without
    #[arg(long, value_name = "TIME")]
    pub(crate) expires: Option<String>,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::CommandFactory;

    use super::*;

    #[test]
    fn no_command_reuses_the_name_of_an_option_that_all_have() {
        fn check(command: &clap::Command, global: &BTreeSet<String>) {
            for below in command.get_subcommands() {
                let own = below.get_arguments().map(|argument| argument.get_id().to_string());
                let both: Vec<String> = own.filter(|id| global.contains(id)).collect();
                assert!(both.is_empty(), "{} reuses {both:?}", below.get_name());
                check(below, global);
            }
        }
        let command = Cli::command();
        let global = command.get_arguments().filter(|argument| argument.is_global_set());
        let global: BTreeSet<String> = global.map(|argument| argument.get_id().to_string()).collect();
        assert!(global.contains("home"), "{global:?}");
        check(&command, &global);
    }

    #[test]
    fn a_customers_name_is_not_the_deployments() {
        let line = "securebase customers add acme --name A --tier standard --contract-start 2026-01-01T00:00:00Z";
        let cli = Cli::parse_from(line.split(' '));
        assert_ne!(cli.global.deployment, "A");
    }
}
