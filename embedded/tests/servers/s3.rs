use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::primitives::ByteStream;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use embedded::{S3, S3Options};

fn client(endpoint: &str, secret: &str) -> Client {
    let connections =
        aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-central-1"))
        .credentials_provider(Credentials::new("any", secret, None, None, "test"))
        .http_client(connections)
        .force_path_style(true)
        .endpoint_url(endpoint);
    Client::from_conf(config.build())
}

async fn put(client: &Client, key: &str, content: &[u8]) {
    let body = ByteStream::from(content.to_vec());
    client.put_object().bucket("logs").key(key).metadata("signature", "ab12").body(body).send().await.unwrap();
}

async fn get(client: &Client, key: &str, if_match: Option<&str>) -> Result<Vec<u8>, String> {
    let get = client.get_object().bucket("logs").key(key).set_if_match(if_match.map(str::to_owned));
    match get.send().await {
        Ok(found) => {
            assert_eq!(found.metadata().unwrap()["signature"], "ab12");
            Ok(found.body.collect().await.unwrap().to_vec())
        }
        Err(error) => Err(error.code().unwrap_or_default().to_owned()),
    }
}

#[tokio::test]
async fn objects_are_kept_with_their_metadata_and_read_back_or_refused() {
    let server = S3::start(S3Options { directory: None, denied: vec!["/logs/secret/".into()] }).await.unwrap();
    let client = client(server.endpoint(), "any");
    client.create_bucket().bucket("logs").send().await.unwrap();
    let large: Vec<u8> = (0..3_000_000_u32).map(|n| (n >> 8) as u8).collect();
    put(&client, "a/b c+d=é.json.gz", &large).await;

    assert!(get(&client, "a/b c+d=é.json.gz", None).await.unwrap() == large);
    let head = client.head_object().bucket("logs").key("a/b c+d=é.json.gz").send().await.unwrap();
    let etag = head.e_tag().unwrap();
    assert!(get(&client, "a/b c+d=é.json.gz", Some(etag)).await.unwrap() == large);
    assert_eq!(get(&client, "a/b c+d=é.json.gz", Some("\"other\"")).await, Err("PreconditionFailed".to_owned()));
    assert_eq!(get(&client, "a/none", None).await, Err("NoSuchKey".to_owned()));
    assert_eq!(get(&client, "secret/x", None).await, Err("AccessDenied".to_owned()));
    server.shutdown().await;
}

#[tokio::test]
async fn a_secret_that_is_not_the_access_key_is_refused() {
    let server = S3::start(S3Options::default()).await.unwrap();
    let error = client(server.endpoint(), "wrong").create_bucket().bucket("logs").send().await.unwrap_err();
    assert_eq!(error.code(), Some("SignatureDoesNotMatch"));
    server.shutdown().await;
}

#[tokio::test]
async fn files_put_into_the_folder_by_others_are_objects() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("logs/AWSLogs")).unwrap();
    std::fs::write(folder.path().join("logs/AWSLogs/x.json"), b"{}").unwrap();
    let options = S3Options { directory: Some(folder.path().to_owned()), denied: Vec::new() };
    let server = S3::start(options).await.unwrap();
    let client = client(server.endpoint(), "any");
    let found = client.get_object().bucket("logs").key("AWSLogs/x.json").send().await.unwrap();
    assert_eq!(found.body.collect().await.unwrap().to_vec(), b"{}");
    server.shutdown().await;
}

#[tokio::test]
async fn what_is_locked_in_a_bucket_with_object_lock_is_not_replaced_or_deleted() {
    let server = S3::start(S3Options::default()).await.unwrap();
    let client = client(server.endpoint(), "any");
    client.create_bucket().bucket("plain").send().await.unwrap();
    client.create_bucket().bucket("locks").object_lock_enabled_for_bucket(true).send().await.unwrap();
    let until = aws_sdk_s3::primitives::DateTime::from_secs(2_000_000_000);
    let locked = |bucket: &str, key: &str| {
        let body = ByteStream::from_static(b"first");
        client
            .put_object()
            .bucket(bucket)
            .key(key)
            .object_lock_mode(aws_sdk_s3::types::ObjectLockMode::Compliance)
            .object_lock_retain_until_date(until)
            .body(body)
    };
    assert_eq!(locked("plain", "x").send().await.unwrap_err().code(), Some("InvalidRequest"));
    locked("locks", "a/x").send().await.unwrap();
    assert_eq!(server.retention("locks", "a/x").map(|lock| lock.mode), Some("COMPLIANCE".to_owned()));
    assert_eq!(server.retention("plain", "x"), None);
    for refused in [
        locked("locks", "a/x").send().await.unwrap_err().code().map(str::to_owned),
        client.delete_object().bucket("locks").key("a/x").send().await.unwrap_err().code().map(str::to_owned),
    ] {
        assert_eq!(refused.as_deref(), Some("AccessDenied"));
    }
    let again = locked("locks", "a/x").if_none_match("*").send().await.unwrap_err();
    assert_eq!(again.raw_response().map(|raw| raw.status().as_u16()), Some(412));
    let found = client.get_object().bucket("locks").key("a/x").send().await.unwrap();
    assert_eq!(found.body.collect().await.unwrap().to_vec(), b"first");
    client.put_object().bucket("locks").key("free").body(ByteStream::from_static(b"1")).send().await.unwrap();
    client.delete_object().bucket("locks").key("free").send().await.unwrap();
    server.shutdown().await;
}
