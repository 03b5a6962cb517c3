//! From the start of a process to its first invocation.

use serde_json::Value;

use crate::deliveries;
use crate::runtime_api::{Environment, NotStarted, Outcome};
use crate::secrets::Secrets;
use crate::stage::{Program, Stage};

#[tokio::test]
async fn a_function_with_wrong_settings_tells_lambda_all_that_is_wrong_and_ends() {
    let stage = Stage::set().await;
    let mut function = stage.function(Program::Rollup);
    for name in ["AWS_REGION", "SECUREBASE_DATABASE_URL"] {
        function.variables.remove(name);
    }
    let NotStarted { told, code } = Environment::start(&function).await.map(drop).unwrap_err();
    let (kind, message) = told.unwrap();
    assert_eq!((kind.as_str(), code), ("Runtime.SettingsInvalid", Some(1)));
    assert!(message.contains("AWS_REGION is not set") && message.contains("SECUREBASE_DATABASE_URL is not set"));

    let mut function = stage.function(Program::Rollup);
    function.variables.insert("SECUREBASE_DATABASE_URL".into(), "postgresql://nobody@127.0.0.1:1/none".into());
    let NotStarted { told, code } = Environment::start(&function).await.map(drop).unwrap_err();
    assert_eq!((told.unwrap().0.as_str(), code), ("Runtime.StoreUnavailable", Some(1)));
    stage.close().await;
}

#[tokio::test]
async fn a_program_that_lambda_did_not_start_says_what_it_is() {
    for program in Program::ALL {
        let output = tokio::process::Command::new(program.path()).env_clear().output().await.unwrap();
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.starts_with("this program is a Lambda function"), "{said}");
    }
}

#[tokio::test]
async fn what_a_function_logs_is_a_line_of_json_that_names_its_request() {
    let stage = Stage::set().await;
    let mut function = stage.function(Program::Aggregate);
    function.variables.insert("AWS_LAMBDA_LOG_FORMAT".into(), "JSON".into());
    let mut environment = Environment::start(&function).await.unwrap();
    let poison =
        deliveries::KinesisRecord { sequence_number: "1".into(), partition_key: "07".into(), body: b"{}".into() };
    environment.invoke(&deliveries::kinesis("usage", "shardId-000000000000", [poison])).await.answer();
    let log = environment.log();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let malformed = lines.iter().find(|line| line["sequence_number"] == "1").expect(&log);
    assert_eq!(malformed["level"], "ERROR");
    let figures = lines.iter().find(|line| line["_aws"].is_object()).expect(&log);
    assert_eq!((&figures["Function"], &figures["MalformedRecords"]), (&"aggregate".into(), &1.into()), "{log}");
    assert_eq!(malformed["span"]["requestId"], "00000000-0000-4000-8000-000000000001", "{log}");
    stage.close().await;
}

#[tokio::test]
async fn an_event_of_another_kind_is_an_error_and_the_function_goes_on() {
    let stage = Stage::set().await;
    for program in Program::MAPPED {
        let mut environment = Environment::start(&stage.function(program)).await.unwrap();
        for event in ["{}", "[]", "null", r#"{"Records":[]}"#] {
            let outcome = environment.invoke(event).await;
            assert!(matches!(outcome, Outcome::Error { .. }), "{program:?} {event}: {outcome:?}");
        }
    }
    stage.close().await;
}

#[tokio::test]
async fn a_password_is_read_by_reference_and_a_missing_one_is_told_without_what_it_is() {
    let stage = Stage::set().await;
    let object = r#"{"engine":"postgres","username":"securebase_aggregator","password":"s3cret"}"#;
    let secrets = Secrets::with(&[("database", object), ("other", r#"{"password":["s3cret"]}"#)]).await;
    let mut function = stage.function(Program::Rollup);
    function.variables.insert("AWS_ENDPOINT_URL_SECRETS_MANAGER".into(), secrets.endpoint.clone());
    for (name, told) in [
        ("database", None),
        ("missing", Some("the secret missing cannot be read")),
        ("other", Some("the secret other is neither plain text nor a JSON object with a text \"password\"")),
    ] {
        function.variables.insert("SECUREBASE_DATABASE_SECRET".into(), name.into());
        let started = Environment::start(&function).await;
        match (started, told) {
            (Ok(_), None) => {}
            (Err(not_started), Some(expected)) => {
                let (kind, message) = not_started.told.unwrap();
                assert_eq!(kind, "Runtime.SecretUnavailable");
                assert!(message.starts_with(expected) && !message.contains("s3cret"), "{message}");
            }
            (started, _) => panic!("{name}: {:?}", started.map(drop)),
        }
    }
    assert_eq!(secrets.asked(), ["database", "missing", "other"]);
    stage.close().await;
}
