//! The command line. Its machine-readable forms are described in `docs/cli.md`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

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
    /// Draft, issue and show invoices
    #[command(subcommand)]
    Invoice(Invoice),
    /// Records that were set aside with a reason
    #[command(subcommand)]
    DeadLetters(DeadLetters),
    /// Which source each meter is counted from
    Sources,
    /// What CloudTrail's digest files prove: how far, what is missing, what was altered
    Digests(Digests),
    /// FOCUS exports
    #[command(subcommand)]
    Exports(Exports),
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

#[derive(Debug, Subcommand)]
pub(crate) enum Exports {
    /// Exact sums of a file, before anything of it counts
    Inspect {
        /// CSV, gzip or not
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
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
    List,
    /// Make a customer the owner of an account from an hour on; usage already counted follows
    Register(AccountRegister),
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
    /// Show one invoice by number
    Show {
        /// Such as INV-2026-11-0001
        #[arg(value_name = "NUMBER")]
        number: String,
    },
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
}

#[derive(Debug, Subcommand)]
pub(crate) enum DeadLetters {
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
