//! What a template says: from the invoice or credit note, and from the notification's payload.

use minijinja::Value;
use sqlx::PgConnection;

use super::compose::ComposeError;
use super::template::{Facts, Template};
use crate::document::InvoiceDocument;
use crate::money::group_thousands;
use crate::read::{ReadError, load_account, load_credit_note, load_invoice};
use crate::stored_document::DocumentOf;

/// The part of a key that may be named: everything before its secret, which begins after 16 characters of key id.
const KEY_PREFIX: &str = "sk_live_";
const KEY_ID_LENGTH: usize = 16;

/// Gathers what the template says. The inner error is the notification's fault.
pub(super) async fn gather(
    connection: &mut PgConnection,
    template: Template,
    customer: &str,
    of: Option<DocumentOf<'_>>,
    payload: &str,
) -> Result<Result<Facts, ComposeError>, ReadError> {
    let mut facts = Facts::new();
    facts.insert("customer", Value::from(customer));
    let missing =
        |what: &str| ComposeError::Payload { template: template.as_str(), reason: format!("{what} is missing") };
    match of {
        Some(DocumentOf::Invoice(id)) => {
            let (Some(document), Some(account)) =
                (load_invoice(connection, id).await?, load_account(connection, id).await?)
            else {
                return Ok(Err(missing("the invoice")));
            };
            add_document(&mut facts, &document);
            let open = account.open;
            facts.insert("open", Value::from(open.to_string()));
            facts.insert("is_open", Value::from(!open.is_zero()));
        }
        Some(DocumentOf::CreditNote(id)) => {
            let Some(document) = load_credit_note(connection, id).await? else {
                return Ok(Err(missing("the credit note")));
            };
            add_document(&mut facts, &document);
        }
        None => {}
    }
    Ok(add_payload(&mut facts, template, customer, payload).map(|()| facts))
}

fn add_document(facts: &mut Facts, document: &InvoiceDocument) {
    let amount = |text: &str| Value::from(group_thousands(text.strip_prefix('-').unwrap_or(text)));
    let day =
        |instant: &Option<String>| Value::from(instant.as_deref().unwrap_or_default().get(..10).unwrap_or_default());
    let last = document.period.end.parse::<chrono::NaiveDate>().ok().and_then(|end| end.pred_opt());
    let last = last.map_or_else(|| document.period.end.clone(), |last| last.to_string());
    let is_nothing = |text: &str| text.chars().all(|digit| matches!(digit, '0' | '.'));
    facts.extend([
        ("number", Value::from(document.number.clone().unwrap_or_default())),
        ("kind", Value::from(document.kind.as_str())),
        ("buyer", Value::from(printable(&document.buyer.name))),
        ("seller", Value::from(printable(&document.seller.name))),
        ("period_start", Value::from(document.period.start.as_str())),
        ("period_last", Value::from(last)),
        ("issued", day(&document.issued_at)),
        ("due_day", day(&document.due_at)),
        ("currency", Value::from(document.currency.as_str())),
        ("net", amount(&document.net)),
        ("tax", amount(&document.tax)),
        ("total", amount(&document.total)),
        ("payable", amount(&document.payable)),
        ("has_adjustments", Value::from(!document.adjustments.is_empty())),
        ("prepaid_credit", amount(&document.prepaid_credit)),
        ("has_credit", Value::from(!is_nothing(&document.prepaid_credit))),
        ("due", amount(&document.due)),
        ("is_due", Value::from(!is_nothing(&document.due))),
    ]);
    if let Some(corrected) = &document.corrects {
        facts.insert("corrects", Value::from(corrected.number.as_str()));
        facts.insert("reason", Value::from(printable(&corrected.reason)));
    }
}

/// The members of the payload, each a short text, and only those the template knows.
fn add_payload(facts: &mut Facts, template: Template, customer: &str, payload: &str) -> Result<(), ComposeError> {
    let broken = |reason: String| ComposeError::Payload { template: template.as_str(), reason };
    let names: &[&'static str] = match template {
        Template::ApiKeyReady => &["prefix", "name"],
        Template::UsageThreshold => &["what", "used", "allowed", "percent", "month"],
        _ => return Ok(()),
    };
    let payload: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(payload).map_err(|error| broken(error.to_string()))?;
    // What is not asked for goes nowhere: a whole key under another name least of all.
    for name in names {
        let text = payload.get(*name).and_then(serde_json::Value::as_str);
        let text = text.ok_or_else(|| broken(format!("{name} is missing or no text")))?;
        facts.insert(name, Value::from(printable(text)));
    }
    if template == Template::ApiKeyReady {
        let prefix = payload.get("prefix").and_then(serde_json::Value::as_str).unwrap_or_default();
        let length_max = KEY_PREFIX.len() + customer.len() + 1 + KEY_ID_LENGTH;
        if length_max < prefix.len() {
            return Err(broken("the prefix is longer than the part of a key that may be named".to_owned()));
        }
    }
    Ok(())
}

/// One line, without control characters.
fn printable(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_key_is_never_named() {
        let mut facts = Facts::new();
        let add = |facts: &mut Facts, prefix: &str| {
            let payload =
                serde_json::json!({ "prefix": prefix, "name": "ci", "key": "sk_live_anna_secret" }).to_string();
            add_payload(facts, Template::ApiKeyReady, "anna", &payload)
        };
        add(&mut facts, "sk_live_anna_0123456789abcdef").unwrap();
        assert_eq!(facts.keys().copied().collect::<Vec<_>>(), ["name", "prefix"]);
        let error = add(&mut facts, "sk_live_anna_0123456789abcdefSECRET").unwrap_err().to_string();
        assert!(error.contains("longer than the part of a key") && !error.contains("SECRET"), "{error}");
    }

    #[test]
    fn a_payload_that_lacks_a_member_is_named() {
        let error = add_payload(&mut Facts::new(), Template::UsageThreshold, "anna", "{\"what\":\"accounts\"}");
        assert_eq!(
            error.unwrap_err().to_string(),
            "the payload of a usage_threshold notification: used is missing or no text"
        );
    }
}
