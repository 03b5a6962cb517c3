use std::path::Path;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_dynamodb::error::ProvideErrorMetadata;
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
};
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use embedded::{DynamoDb, DynamoDbError};

const TABLE: &str = "entries";

fn client(endpoint: &str) -> Client {
    let connections =
        aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
    let config = aws_sdk_dynamodb::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-central-1"))
        .credentials_provider(Credentials::new("any", "any", None, None, "test"))
        .http_client(connections)
        .endpoint_url(endpoint);
    Client::from_conf(config.build())
}

async fn create_table(client: &Client) {
    let attribute =
        |name, kind| AttributeDefinition::builder().attribute_name(name).attribute_type(kind).build().unwrap();
    let key = |name, kind| KeySchemaElement::builder().attribute_name(name).key_type(kind).build().unwrap();
    let table = client.create_table().table_name(TABLE).billing_mode(BillingMode::PayPerRequest);
    let table = table.attribute_definitions(attribute("p", ScalarAttributeType::S));
    let table = table.attribute_definitions(attribute("v", ScalarAttributeType::N));
    let table = table.key_schema(key("p", KeyType::Hash)).key_schema(key("v", KeyType::Range));
    table.send().await.unwrap();
}

/// Puts entry 1 of the partition unless there is one; the service's error code if it refuses.
async fn append(client: &Client, content: &[u8]) -> Result<(), String> {
    let put = client
        .put_item()
        .table_name(TABLE)
        .item("p", AttributeValue::S("7#2026-10-01T12".into()))
        .item("v", AttributeValue::N("1".into()))
        .item("content", AttributeValue::B(Blob::new(content)))
        .condition_expression("attribute_not_exists(v)");
    match put.send().await {
        Ok(_) => Ok(()),
        Err(error) => Err(error.into_service_error().code().unwrap_or_default().to_owned()),
    }
}

async fn content(client: &Client) -> Vec<u8> {
    let get = client
        .get_item()
        .table_name(TABLE)
        .consistent_read(true)
        .key("p", AttributeValue::S("7#2026-10-01T12".into()))
        .key("v", AttributeValue::N("1".into()));
    let item = get.send().await.unwrap().item.unwrap();
    item["content"].as_b().unwrap().as_ref().to_vec()
}

#[tokio::test]
async fn a_conditional_put_wins_once() {
    let tables = DynamoDb::in_memory().await.unwrap();
    let client = client(tables.endpoint());
    create_table(&client).await;
    assert_eq!(append(&client, b"first").await, Ok(()));
    assert_eq!(append(&client, b"second").await, Err("ConditionalCheckFailedException".into()));
    assert_eq!(content(&client).await, b"first");
    tables.shutdown().await;
}

#[tokio::test]
async fn a_file_keeps_its_tables() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tables.db");
    let entry = vec![7; 350_000];
    {
        let tables = DynamoDb::file(&file).await.unwrap();
        let client = client(tables.endpoint());
        create_table(&client).await;
        append(&client, &entry).await.unwrap();
        tables.shutdown().await;
    }
    let tables = DynamoDb::file(&file).await.unwrap();
    let client = client(tables.endpoint());
    assert_eq!(append(&client, b"second").await, Err("ConditionalCheckFailedException".into()));
    assert_eq!(content(&client).await, entry);
    tables.shutdown().await;
}

#[tokio::test]
async fn a_file_that_cannot_be_opened_is_named() {
    let refused = DynamoDb::file(Path::new("/dev/null/tables.db")).await.unwrap_err();
    assert!(matches!(refused, DynamoDbError::Open { .. }));
    assert!(refused.to_string().contains("/dev/null/tables.db"), "{refused}");
}
