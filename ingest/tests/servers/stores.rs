use embedded::DynamoDb;
use ingest::aws::AwsErrorKind;
use ingest::dead_letter::{DeadLetter, DeadLetters, Dismissal, Scope};
use ingest::manifest::{Manifest, Manifests, ObjectVersion};
use ingest::{NotCounted, Reason, RunId, Timestamp};

use crate::clients;

fn at(second: i64) -> Timestamp {
    Timestamp::parse_rfc3339("2026-11-22T08:00:00Z").unwrap().saturating_add_secs(second)
}

fn manifest(run: u8, object: &str) -> Manifest {
    Manifest {
        run: RunId::from_bytes([run; 16]),
        object: ObjectVersion { name: object.to_owned(), sha256: [9; 32] },
        stored_bytes: 1 << 40,
        read: 1_000,
        not_counted: NotCounted::ALL.iter().map(|kind| (*kind, 1)).collect(),
        dead_letters: Reason::ALL.iter().map(|reason| (*reason, 2)).collect(),
        beside_dead_letters: [(Reason::EvaluationsMalformed, u64::from(run) % 2)]
            .into_iter()
            .filter(|of| of.1 == 1)
            .collect(),
        content_sha256: Some([run; 32]),
        event_times: run.is_multiple_of(2).then(|| (at(0), at(i64::from(run)))),
        slices: 7,
        beside_slices: (0..u32::from(run) % 3).collect(),
        started_at: at(0),
    }
}

#[tokio::test]
async fn manifests_are_found_by_object_name_and_content() {
    let server = DynamoDb::in_memory().await.unwrap();
    let manifests = Manifests::new(clients::dynamodb(server.endpoint()), "manifests".into(), || 0);
    manifests.ensure_table().await.unwrap();
    manifests.ensure_table().await.unwrap();

    // More than one BatchWriteItem call takes.
    let mut all: Vec<Manifest> = (0..60).map(|run| manifest(run, "s3://bucket/a.json.gz")).collect();
    all.push(manifest(60, "s3://bucket/b.json.gz"));
    assert!(61 <= manifests.put(&all).await.unwrap(), "an item costs at least a write unit");
    manifests.put(&all[..1]).await.unwrap();

    assert_eq!(manifests.of_object(&all[0].object).await.unwrap(), all[..60], "in order of runs, each once");
    assert_eq!(manifests.of_object(&all[60].object).await.unwrap(), all[60..]);
    let other_content = ObjectVersion { sha256: [8; 32], ..all[0].object.clone() };
    assert_eq!(manifests.of_object(&other_content).await.unwrap(), []);

    // A copy elsewhere has the same file name, and another name.
    let copy = manifest(61, "/logs/b.json.gz");
    manifests.put(std::slice::from_ref(&copy)).await.unwrap();
    assert_eq!(manifests.of_object(&all[60].object).await.unwrap(), all[60..]);
    assert_eq!(manifests.of_file_name("b.json.gz").await.unwrap(), [all[60].clone(), copy.clone()]);
    all.push(copy);
    let mut scanned = Vec::new();
    manifests.scan(|manifest| scanned.push(manifest)).await.unwrap();
    scanned.sort_by_key(|manifest| manifest.run);
    assert_eq!(scanned, all);
    server.shutdown().await;
}

fn dead_letter(object: &str, offset: u64, bytes: Vec<u8>) -> DeadLetter {
    DeadLetter {
        object: object.to_owned(),
        offset,
        number: 0,
        reason: Reason::AccountMissing,
        bytes,
        is_whole: true,
        seen_at: at(0),
        resolved_at: None,
    }
}

#[tokio::test]
async fn dead_letters_of_any_size_are_kept_once_and_whole_and_resolved() {
    let server = DynamoDb::in_memory().await.unwrap();
    let letters = DeadLetters::new(clients::dynamodb(server.endpoint()), "dead_letters".into(), || 0);
    letters.ensure_table().await.unwrap();
    letters.ensure_table().await.unwrap();

    // Parts that differ, so that their order shows; together several pages of a scan.
    let large = |seed: u32| (0..1_050_000_u32).map(|n| ((n >> 10) ^ seed) as u8).collect::<Vec<_>>();
    let mut all = vec![
        dead_letter("a.json.gz", 7, large(1)),
        dead_letter("a.json.gz", 2_000_000, large(2)),
        DeadLetter { is_whole: false, ..dead_letter("b.json.gz", 0, b"{".to_vec()) },
        DeadLetter { seen_at: at(1), ..dead_letter("empty", u64::MAX, Vec::new()) },
        DeadLetter { seen_at: at(2), ..dead_letter("a.json.gz", 0, vec![b'x'; 350_000]) },
        DeadLetter { seen_at: at(3), ..dead_letter("a.json.gz", 1, vec![b'x'; 350_001]) },
    ];
    letters.put(&all).await.unwrap();
    assert_eq!(letters.list().await.unwrap(), all, "oldest first, then by place");

    letters.resolve(&all[0].id(), at(10)).await.unwrap();
    letters.resolve(&all[0].id(), at(20)).await.unwrap();
    // Reading the object again finds it the same way, later.
    let again: Vec<_> = all.iter().map(|letter| DeadLetter { seen_at: at(30), ..letter.clone() }).collect();
    letters.put(&again).await.unwrap();
    all[0].resolved_at = Some(at(10));
    assert_eq!(letters.list().await.unwrap(), all);

    // What somebody dismisses is no longer open; who did, and why, stays, and a second word changes nothing.
    let dismissal = Dismissal { by: "eve".to_owned(), because: "a test record".to_owned() };
    letters.dismiss(&all[2].id(), &dismissal, at(50)).await.unwrap();
    let later = Dismissal { by: "mallory".to_owned(), because: String::new() };
    for dismissed in [&all[2], &all[0]] {
        letters.dismiss(&dismissed.id(), &later, at(60)).await.unwrap();
    }
    all[2].resolved_at = Some(at(50));
    assert_eq!(letters.list().await.unwrap(), all);
    let heads = letters.heads().await.unwrap();
    let said: Vec<_> = heads.iter().filter_map(|head| head.dismissed.as_ref().map(|said| (&head.id, said))).collect();
    assert_eq!(said, [(&all[2].id(), &dismissal)]);
    assert_eq!(heads.iter().filter(|head| head.is_open()).count(), all.len() - 2);

    let unknown = letters.resolve("no such letter", at(40)).await.unwrap_err();
    assert!(!unknown.kind.is_passing(), "{unknown}");
    assert_eq!(letters.list().await.unwrap().len(), all.len());
    server.shutdown().await;
}

#[tokio::test]
async fn heads_of_dead_letters_hold_an_excerpt_and_loading_brings_the_rest() {
    let server = DynamoDb::in_memory().await.unwrap();
    let letters = DeadLetters::new(clients::dynamodb(server.endpoint()), "dead_letters".into(), || 0);
    letters.ensure_table().await.unwrap();
    let lengths = [0, 1, 511, 512, 513, 350_000, 350_001, 4 << 20];
    let bytes = |length: usize| (0..length).map(|n| (n % 251) as u8).collect::<Vec<_>>();
    let mut all: Vec<_> = lengths.iter().map(|&length| dead_letter("a", length as u64, bytes(length))).collect();
    let dated = br#"{"recipientAccountId":"000000000012","eventTime":"2026-10-07T01:02:03.5Z"}"#;
    all.push(dead_letter("a", 5 << 20, dated.to_vec()));
    letters.put(&all).await.unwrap();
    letters.resolve(&all[3].id(), at(10)).await.unwrap();

    let heads = letters.heads().await.unwrap();
    assert_eq!(heads.len(), all.len());
    for (head, letter) in heads.iter().zip(&all) {
        assert_eq!((&head.id, &head.object, head.offset), (&letter.id(), &letter.object, letter.offset));
        assert_eq!((head.reason, head.is_whole, head.seen_at), (letter.reason, letter.is_whole, letter.seen_at));
        assert_eq!(head.excerpt, letter.bytes[..letter.bytes.len().min(512)]);
        assert_eq!(head.length, letter.bytes.len() as u64);
        assert_eq!(head.scope, Scope::of(letter));
        let resolved_at = (head.id == all[3].id()).then(|| at(10));
        assert_eq!(head.resolved_at, resolved_at);
        let loaded = letters.load(&head.id).await.unwrap();
        assert_eq!(loaded, Some(DeadLetter { resolved_at, ..letter.clone() }));
    }
    assert_eq!(letters.load("no such letter").await.unwrap(), None);
    server.shutdown().await;
}

#[tokio::test]
async fn a_missing_table_and_a_missing_server_are_told_apart() {
    let server = DynamoDb::in_memory().await.unwrap();
    let letters = DeadLetters::new(clients::dynamodb(server.endpoint()), "dead_letters".into(), || 0);
    let missing = letters.put(&[dead_letter("a", 0, vec![1])]).await.unwrap_err();
    assert_eq!((missing.kind, missing.kind.is_passing()), (AwsErrorKind::NotFound, false), "{missing}");
    server.shutdown().await;
    let silent = letters.put(&[dead_letter("a", 0, vec![1])]).await.unwrap_err();
    assert_eq!((silent.kind, silent.kind.is_passing()), (AwsErrorKind::Unreachable, true), "{silent}");
}
