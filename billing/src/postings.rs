//! The double entry of an invoice, a credit note, a payment and a grant: which accounts change by how much, as a value.

use std::collections::BTreeMap;
use std::fmt;

use crate::correction::Correction;
use crate::currency::Currency;
use crate::invoice::{Invoice, TaxLine, Totals};
use crate::money::{AmountError, Money};
use crate::rating::LineKind;

/// An account of the ledger, of one customer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Account {
    /// What the customer owes.
    Receivable,
    /// What was earned, by the kind of line, before discounts.
    Revenue(LineKind),
    /// What volume discounts took off.
    VolumeDiscounts,
    /// What coupons took off.
    CouponDiscounts,
    /// What is owed to a jurisdiction; an empty name where the rate is the customer's own.
    TaxPayable(String),
    /// What the customer has paid, or been granted, in advance.
    CustomerCredit,
    /// What has been paid.
    Cash,
    /// What was given away as credit.
    CreditGranted,
}

/// A change of one account: debits are positive, credits negative.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Posting {
    /// Which.
    pub account: Account,
    /// By how much.
    pub amount: Money,
}

/// Changes that belong together and sum to nothing; in the order of accounts, one each, none of nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Postings(Vec<Posting>);

/// The name used in SQL: `revenue:usage`, `tax_payable:CH`.
impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Receivable => f.write_str("receivable"),
            Self::Revenue(kind) => write!(f, "revenue:{}", kind.as_str()),
            Self::VolumeDiscounts => f.write_str("discounts:volume"),
            Self::CouponDiscounts => f.write_str("discounts:coupons"),
            Self::TaxPayable(jurisdiction) if jurisdiction.is_empty() => f.write_str("tax_payable"),
            Self::TaxPayable(jurisdiction) => write!(f, "tax_payable:{jurisdiction}"),
            Self::CustomerCredit => f.write_str("customer_credit"),
            Self::Cash => f.write_str("cash"),
            Self::CreditGranted => f.write_str("credit_granted"),
        }
    }
}

impl Postings {
    /// An invoice that is issued: its own amounts, the adjustments it carries, and the prepaid credit it uses.
    pub fn of_invoice(invoice: &Invoice) -> Result<Self, AmountError> {
        let mut sheet = Sheet::new(invoice.currency);
        let lines = invoice.lines.iter().map(|line| (line.kind, line.amount));
        sheet.charge(lines, &invoice.totals, &invoice.taxes)?;
        for adjustment in &invoice.settlement.adjustments {
            sheet.correct(adjustment)?;
        }
        sheet.transfer(Account::CustomerCredit, Account::Receivable, invoice.settlement.credit)?;
        Ok(sheet.close())
    }

    /// A credit note: a negative correction of an invoice. What of the invoice is paid already, `paid`, becomes customer credit
    /// instead of lowering what is owed.
    pub fn of_credit_note(correction: &Correction, paid: Money) -> Result<Self, AmountError> {
        let mut sheet = Sheet::new(paid.currency());
        sheet.correct(correction)?;
        sheet.transfer(Account::Receivable, Account::CustomerCredit, paid)?;
        Ok(sheet.close())
    }

    /// A payment of what is owed.
    pub fn of_payment(amount: Money) -> Result<Self, AmountError> {
        let mut sheet = Sheet::new(amount.currency());
        sheet.transfer(Account::Cash, Account::Receivable, amount)?;
        Ok(sheet.close())
    }

    /// A payment in advance.
    pub fn of_advance(amount: Money) -> Result<Self, AmountError> {
        let mut sheet = Sheet::new(amount.currency());
        sheet.transfer(Account::Cash, Account::CustomerCredit, amount)?;
        Ok(sheet.close())
    }

    /// Credit that is given.
    pub fn of_grant(amount: Money) -> Result<Self, AmountError> {
        let mut sheet = Sheet::new(amount.currency());
        sheet.transfer(Account::CreditGranted, Account::CustomerCredit, amount)?;
        Ok(sheet.close())
    }

    /// The changes.
    pub fn iter(&self) -> impl Iterator<Item = &Posting> {
        self.0.iter()
    }

    /// Whether the changes sum to nothing, which they always do.
    pub fn balance(&self) -> bool {
        let Some(first) = self.0.first() else { return true };
        let sum = Money::sum(self.0.iter().map(|posting| posting.amount), first.amount.currency());
        sum.is_ok_and(Money::is_zero)
    }
}

/// Postings that are being collected.
struct Sheet {
    currency: Currency,
    accounts: BTreeMap<Account, Money>,
}

impl Sheet {
    fn new(currency: Currency) -> Self {
        Self { currency, accounts: BTreeMap::new() }
    }

    fn debit(&mut self, account: Account, amount: Money) -> Result<(), AmountError> {
        let known = self.accounts.entry(account).or_insert_with(|| Money::zero(self.currency));
        *known = known.checked_add(amount)?;
        Ok(())
    }

    fn credit(&mut self, account: Account, amount: Money) -> Result<(), AmountError> {
        self.debit(account, amount.checked_neg()?)
    }

    fn transfer(&mut self, debit: Account, credit: Account, amount: Money) -> Result<(), AmountError> {
        self.debit(debit, amount)?;
        self.credit(credit, amount)
    }

    fn charge(
        &mut self,
        lines: impl Iterator<Item = (LineKind, Money)>,
        totals: &Totals,
        taxes: &[TaxLine],
    ) -> Result<(), AmountError> {
        for (kind, amount) in lines {
            self.credit(Account::Revenue(kind), amount)?;
        }
        self.debit(Account::VolumeDiscounts, totals.volume_discount)?;
        self.debit(Account::CouponDiscounts, totals.coupons)?;
        for tax in taxes {
            self.credit(Account::TaxPayable(tax.rate.jurisdiction.clone()), tax.amount)?;
        }
        self.debit(Account::Receivable, totals.total)
    }

    fn correct(&mut self, correction: &Correction) -> Result<(), AmountError> {
        let lines = correction.lines.iter().map(|line| (line.kind, line.amount));
        self.charge(lines, &correction.totals, &correction.taxes)
    }

    fn close(self) -> Postings {
        let postings = self.accounts.into_iter().filter(|(_, amount)| !amount.is_zero());
        let postings = Postings(postings.map(|(account, amount)| Posting { account, amount }).collect());
        debug_assert!(postings.balance(), "every entry is made on two sides");
        postings
    }
}

#[cfg(test)]
mod tests;
