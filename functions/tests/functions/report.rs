//! Figures of each program, printed by `make functions-report` and never asserted.

use std::time::Duration;

use ingest::stream_format;
use serde_json::{Value, json};

use crate::deliveries::{KinesisRecord, cloudwatch_logs, commit_log, kinesis};
use crate::runtime_api::{Environment, stopwatch};
use crate::stage::{Event, HOUR, Program, Stage, slices};

const STARTS: usize = 5;
const WARM: usize = 20;

#[tokio::test]
async fn every_program_starts_and_answers_and_prints_its_figures() {
    let stage = Stage::set().await;
    stage.create_stream_and_bucket().await;
    println!("{:<20} {:>9} {:>9} {:>9} {:>9} {:>11}", "program", "size", "init", "first", "warm", "resident");
    for program in [Program::Ingest, Program::Aggregate, Program::Rollup] {
        let function = stage.function(program);
        let (mut init, mut first, mut warm, mut resident) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for start in 0..STARTS {
            let mut environment = Environment::start(&function).await.unwrap();
            init.push(environment.init);
            for call in 0..WARM {
                let event = event(program, start * WARM + call);
                let started = stopwatch();
                environment.invoke(&event).await.answer();
                if call == 0 { &mut first } else { &mut warm }.push(started.elapsed());
            }
            resident = resident.max(environment.resident_kib());
        }
        let size = std::fs::metadata(&function.program).unwrap().len();
        let name = function.program.file_name().unwrap().to_string_lossy().into_owned();
        println!(
            "{name:<20} {:>6.1} MB {:>6.1} ms {:>6.1} ms {:>6.1} ms {:>8.1} MiB",
            size as f64 / 1e6,
            median_ms(init),
            median_ms(first),
            median_ms(warm),
            resident as f64 / 1024.0,
        );
    }
    for program in Program::ALL {
        let path = program.path();
        let size = std::fs::metadata(&path).unwrap().len();
        println!("{:<20} {:>6.1} MB", path.file_name().unwrap().to_string_lossy(), size as f64 / 1e6);
    }
    println!(
        "Medians of {STARTS} starts. First and warm: a CloudWatch Logs message of 100 events; one record of 100 events; one entry to roll up."
    );
    stage.close().await;
}

fn event(program: Program, number: usize) -> String {
    match program {
        Program::Ingest => {
            let event = |n: usize| {
                let id = format!("00000000-0000-4000-8000-{:012}", number * 100 + n);
                json!({ "eventName": "X", "eventTime": "2026-10-24T00:20:48Z", "recipientAccountId": "123456789012", "eventID": id })
            };
            let events: Vec<Value> = (0..100).map(event).collect();
            cloudwatch_logs(&events.iter().collect::<Vec<_>>())
        }
        Program::Aggregate => {
            let identity = |n: u32| u32::try_from(number).unwrap() * 100 + n;
            let events: Vec<Event> =
                (0..100).map(|n| Event { account: 1, hour: HOUR, identity: identity(n) }).collect();
            let body = stream_format::encode(&slices(number as u64, &events));
            let record = KinesisRecord { sequence_number: number.to_string(), partition_key: "07".into(), body };
            kinesis("usage", "shardId-000000000000", [record])
        }
        _ => commit_log([(number.to_string(), "17/2026-10-24T00".to_owned(), 1)]),
    }
}

fn median_ms(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e3
}
