//! Measures the stream format beside the others that were considered: the same events, one process, one run.

mod candidate;
mod kpl;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::hint::black_box;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use benches::cloudtrail::{Answer, Plan};
use chrono::{DateTime, TimeDelta, Utc};
use clap::Parser;
use flate2::Compression;
use ingest::kinesis::{StreamRecord, partition_key};
use ingest::{
    Bucket, CounterKey, Hour, Identity, Packer, Rules, RunId, Slice, Timestamp, UsageEvent, Verdict, Window,
    read_object,
};

use candidate::{Candidate, Decoded, Put};

/// What a record is charged by (Kinesis Data Streams pricing: PUT payload unit, 25 KB).
const PAYLOAD_UNIT_BYTES: usize = 25 << 10;
/// A live delivery is one object; a replay sends about so many together.
const OBJECTS_A_PUT: [usize; 2] = [1, 42];

/// Compare the stream format with the others that were considered, on generated CloudTrail logs.
///
/// Every candidate writes the same events, and what it wrote is read back and compared before anything is measured.
/// Then every round encodes and decodes everything with each candidate in turn; times are medians of the rounds.
#[derive(Parser)]
#[command(name = "stream_format", after_help = "Example: stream_format --events 20000 --rounds 3")]
struct Config {
    /// Distinct events; two percent of copies come on top
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1..))]
    events: u64,
    /// Times everything is encoded and decoded
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// AWS accounts that have events
    #[arg(long, default_value_t = 3)]
    accounts: u32,
    /// No event happens before this instant (RFC 3339)
    #[arg(long, default_value = "2026-10-01T00:00:00Z")]
    from: DateTime<Utc>,
    /// No event happens this many hours after --from or later
    #[arg(long, default_value_t = 744)]
    hours: u32,
    /// Where every random choice comes from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Level of the candidates that are gzipped
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(0..=9))]
    gzip_level: u32,
}

/// What a candidate came to.
#[derive(Default)]
struct Figures {
    records: usize,
    bytes: usize,
    payload_units: usize,
    encoding: Vec<Duration>,
    decoding: Vec<Duration>,
}

fn main() -> ExitCode {
    let config = Config::parse();
    let plan = Plan {
        duplicates_percent: 2,
        late_percent: 1,
        ..Plan::new(config.seed, config.events, config.accounts, config.from, config.hours)
    };
    if let Err(error) = plan.check() {
        eprintln!("cannot make events: {error}");
        return ExitCode::FAILURE;
    }
    let level = Compression::new(config.gzip_level);
    let objects = read_objects(&plan);
    let events: usize = objects.iter().map(Vec::len).sum();
    println!(
        "{events} events in {} objects, {} accounts, {} hours; gzip level {}; times are medians of {} rounds; ratios are to (a)",
        objects.len(),
        plan.accounts,
        plan.hours,
        config.gzip_level,
        config.rounds,
    );
    for together in OBJECTS_A_PUT {
        let (puts, grouping) = puts(&objects, together);
        let mut grouping = vec![grouping];
        for candidate in Candidate::ALL {
            check(candidate, &puts, level);
        }
        let mut figures = Candidate::ALL.map(|_| Figures::default());
        for _ in 0..config.rounds {
            for (candidate, figures) in Candidate::ALL.into_iter().zip(&mut figures) {
                measure(candidate, &puts, level, figures);
            }
            grouping.push(self::puts(&objects, together).1);
        }
        print(together, puts.len(), events, &mut grouping, &mut figures);
    }
    ExitCode::SUCCESS
}

/// The events of every object, as the product reads them.
fn read_objects(plan: &Plan) -> Vec<Vec<UsageEvent<'static>>> {
    let now = Timestamp::from(plan.from + TimeDelta::hours(i64::from(plan.hours) + 24));
    let mut text = String::new();
    let object = |k| {
        text.clear();
        plan.write_records(k, &mut text, &mut Answer::default());
        let mut events = Vec::new();
        let rules = Rules::at(now);
        let read = read_object(&plan.log_object(k).key, text.as_bytes(), rules, |judged| {
            match judged.verdict {
                Verdict::Usage(event) => {
                    events.push(UsageEvent { dimensions: event.dimensions.into_owned(), ..event });
                }
                other => panic!("a generated event is usage, not {other:?}"),
            }
            Ok::<(), Infallible>(())
        });
        read.expect("memory can be read");
        events
    };
    (0..plan.file_count()).map(object).collect()
}

/// What is put together, and how long it took to group all events by counter.
fn puts(objects: &[Vec<UsageEvent<'static>>], together: usize) -> (Vec<Put>, Duration) {
    let mut grouping = Duration::ZERO;
    let mut runs = 0_u128..;
    let put = |objects: &[Vec<UsageEvent<'static>>]| {
        let mut slices = Vec::new();
        let mut buckets = BTreeMap::<Bucket, Vec<_>>::new();
        for events in objects {
            let run = runs.next().expect("there are fewer objects");
            let mut packer = Packer::new(RunId::from_bytes(run.to_be_bytes()));
            let mut full = Vec::new();
            for event in events.clone() {
                buckets.entry(event.account.bucket()).or_default().push(event);
            }
            let events = events.clone();
            let (_, time) = timed(|| {
                events.into_iter().for_each(|event| packer.add(event, &mut full));
                full.extend(packer.flush());
            });
            grouping += time;
            slices.extend(full);
        }
        Put { slices, events: buckets.into_iter().collect() }
    };
    let puts = objects.chunks(together).map(put).collect();
    (puts, grouping)
}

/// What is counted of an event: its counter, its hour and its identity.
type Counted = (CounterKey, Hour, Identity);

/// Encodes and decodes everything, and panics unless the same events come back.
fn check(candidate: Candidate, puts: &[Put], level: Compression) {
    let mut text = Vec::new();
    for put in puts {
        let (mut wanted, mut got) = (Vec::<Counted>::new(), Vec::<Counted>::new());
        let (mut times_wanted, mut times_got) = (Vec::new(), Vec::new());
        for (_, events) in &put.events {
            wanted.extend(events.iter().map(counted));
            times_wanted.extend(events.iter().map(|event| (event.identity, event.event_time)));
        }
        let mut slices_wanted = put.slices.clone();
        let mut slices_got = Vec::new();
        for record in candidate.encode(candidate.input(put), level) {
            match candidate.decode(&record.body, &mut text) {
                Decoded::Slices(slices) => {
                    got.extend(slices.iter().flat_map(counted_of_slice));
                    slices_got.extend(slices);
                }
                Decoded::Events(events) => {
                    got.extend(events.iter().map(counted));
                    times_got.extend(events.iter().map(|event| (event.identity, event.event_time)));
                }
            }
        }
        wanted.sort_unstable();
        got.sort_unstable();
        assert!(wanted == got, "{}: other events came back", candidate.name());
        if slices_got.is_empty() {
            times_wanted.sort_unstable();
            times_got.sort_unstable();
            assert!(times_wanted == times_got, "{}: other event times came back", candidate.name());
        } else {
            slices_wanted.sort_by_key(|slice| slice.id);
            slices_got.sort_by_key(|slice| slice.id);
            assert!(slices_wanted == slices_got, "{}: other slices came back", candidate.name());
        }
    }
}

fn counted(event: &UsageEvent<'_>) -> Counted {
    let dimensions = event.dimensions.clone().into_owned();
    let counter = CounterKey { meter: event.meter, account: event.account, dimensions };
    (counter, event.event_time.hour(), event.identity)
}

fn counted_of_slice(slice: &Slice) -> impl Iterator<Item = Counted> {
    let Window::Hour(hour) = slice.window() else { panic!("only events were put") };
    slice
        .groups()
        .iter()
        .flat_map(move |group| group.identities.iter().map(move |identity| (group.counter.clone(), hour, *identity)))
}

/// Adds one round.
fn measure(candidate: Candidate, puts: &[Put], level: Compression, figures: &mut Figures) {
    let (mut encoding, mut decoding) = (Duration::ZERO, Duration::ZERO);
    let (mut records, mut bytes, mut payload_units) = (0, 0, 0);
    let mut text = Vec::new();
    for put in puts {
        let input = candidate.input(put);
        let (encoded, time) = timed(|| black_box(candidate.encode(input, level)));
        encoding += time;
        for StreamRecord { bucket, body } in &encoded {
            records += 1;
            bytes += body.len();
            payload_units += (body.len() + partition_key(*bucket).len()).div_ceil(PAYLOAD_UNIT_BYTES);
            let (_, time) = timed(|| drop(black_box(candidate.decode(body, &mut text))));
            decoding += time;
        }
    }
    figures.encoding.push(encoding);
    figures.decoding.push(decoding);
    (figures.records, figures.bytes, figures.payload_units) = (records, bytes, payload_units);
}

#[expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]
fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let started_at = Instant::now();
    let done = work();
    (done, started_at.elapsed())
}

fn print(together: usize, puts: usize, events: usize, grouping: &mut [Duration], figures: &mut [Figures]) {
    let per_event = |time: Duration| time.as_nanos() as f64 / events as f64;
    let per_million = |count: usize| count as f64 * 1e6 / events as f64;
    let (mut spread_of_half, mut spread_of_all) = (0.0_f64, 0.0_f64);
    let rows: Vec<[f64; 5]> = figures
        .iter_mut()
        .map(|figures| {
            let mut typical = |times: &mut [Duration]| {
                let median = median(times);
                let mut spread: Vec<Duration> = times.iter().map(|time| time.abs_diff(median)).collect();
                spread_of_half = spread_of_half.max(self::median(&mut spread).div_duration_f64(median));
                spread_of_all = spread_of_all.max(spread[spread.len() - 1].div_duration_f64(median));
                median
            };
            [
                figures.bytes as f64 / events as f64,
                per_event(typical(&mut figures.encoding)),
                per_event(typical(&mut figures.decoding)),
                per_million(figures.payload_units),
                per_million(figures.records),
            ]
        })
        .collect();

    let objects = if together == 1 { "object" } else { "objects" };
    println!("\n{together} {objects} a put, {puts} puts");
    println!(
        "{:<37} {:>14} {:>15} {:>15} {:>15} {:>14}",
        "", "bytes/event", "encode ns/event", "decode ns/event", "payload units/M", "records/M"
    );
    for (candidate, row) in Candidate::ALL.into_iter().zip(&rows) {
        print!("{:<37}", candidate.name());
        for (column, (width, decimals)) in [(14, 1), (15, 0), (15, 0), (15, 0), (14, 0)].into_iter().enumerate() {
            let ratio = row[column] / rows[0][column];
            print!(" {:>width$}", format!("{:.decimals$} ({ratio:.2}x)", row[column]));
        }
        println!();
    }
    println!(
        "grouping by counter: {:.0} ns/event, before encoding in (a) and (e), after decoding in the others",
        per_event(median(grouping))
    );
    println!(
        "rounds: half lie within {:.0} % of their median, all within {:.0} %",
        spread_of_half * 100.0,
        spread_of_all * 100.0
    );
}

/// Sorts, and gives the one in the middle.
fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

#[cfg(test)]
mod tests {
    use ingest::AccountId;

    use super::*;

    #[test]
    fn every_candidate_gives_back_what_it_was_given() {
        let from = DateTime::from_timestamp(1_790_812_800, 0).unwrap();
        let plan = Plan { duplicates_percent: 5, late_percent: 5, ..Plan::new(3, 10_000, 5, from, 3) };
        let objects = read_objects(&plan);
        for together in [1, objects.len()] {
            let (puts, _) = puts(&objects, together);
            for candidate in Candidate::ALL {
                check(candidate, &puts, Compression::fast());
                let records = puts.iter().flat_map(|put| candidate.encode(candidate.input(put), Compression::fast()));
                for StreamRecord { bucket, body } in records {
                    assert!(body.len() + 2 <= 1 << 20, "{} makes a record of {} bytes", candidate.name(), body.len());
                    let mut text = Vec::new();
                    let is_of_bucket = |account: AccountId| account.bucket() == bucket;
                    assert!(match candidate.decode(&body, &mut text) {
                        Decoded::Slices(slices) => slices.iter().all(|slice| slice.bucket == bucket),
                        Decoded::Events(events) => events.iter().all(|event| is_of_bucket(event.account)),
                    });
                }
            }
        }
    }
}
