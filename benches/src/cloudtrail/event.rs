//! The text of one event, in the shapes and sizes CloudTrail delivers.

use super::push_instant;
use crate::random::{Draws, push_uuid};

/// One event that happened; what else it says is drawn while it is written.
pub(super) struct Event<'a> {
    draws: Draws,
    id: u128,
    /// The event time, in seconds since 1970.
    pub(super) at: i64,
    account: &'a str,
    region: &'static str,
    shape: Shape,
}

/// What kind of event it is, by how often each is seen.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Management,
    ConsoleSignIn,
    Data,
    NetworkActivity,
    Insight,
}

/// A call that is logged: service, name, whether it only reads, and what it is called with.
#[derive(Clone, Copy)]
struct Call {
    service: &'static str,
    name: &'static str,
    read_only: bool,
    content: Content,
}

#[derive(Clone, Copy)]
enum Content {
    Instances,
    AssumedRole,
    EncryptionContext,
    LogStream,
    Bucket,
    Object,
    Role,
    Function,
    Alarm,
    Table,
    Nothing,
}

const fn call(service: &'static str, name: &'static str, read_only: bool, content: Content) -> Call {
    Call { service, name, read_only, content }
}

const MANAGEMENT: [Call; 20] = [
    call("ec2", "DescribeInstances", true, Content::Instances),
    call("ec2", "DescribeInstanceStatus", true, Content::Instances),
    call("ec2", "DescribeVolumes", true, Content::Instances),
    call("ec2", "RunInstances", false, Content::Instances),
    call("sts", "AssumeRole", true, Content::AssumedRole),
    call("sts", "AssumeRole", true, Content::AssumedRole),
    call("sts", "AssumeRole", true, Content::AssumedRole),
    call("sts", "GetCallerIdentity", true, Content::Nothing),
    call("kms", "Decrypt", true, Content::EncryptionContext),
    call("kms", "GenerateDataKey", true, Content::EncryptionContext),
    call("logs", "CreateLogStream", false, Content::LogStream),
    call("logs", "DescribeLogGroups", true, Content::Nothing),
    call("s3", "GetBucketAcl", true, Content::Bucket),
    call("s3", "ListBuckets", true, Content::Nothing),
    call("iam", "GetRole", true, Content::Role),
    call("iam", "ListAttachedRolePolicies", true, Content::Role),
    call("lambda", "GetFunction20150331v2", true, Content::Function),
    call("lambda", "UpdateFunctionCode20150331v2", false, Content::Function),
    call("monitoring", "PutMetricAlarm", false, Content::Alarm),
    call("dynamodb", "DescribeTable", true, Content::Table),
];

const DATA: [Call; 5] = [
    call("s3", "GetObject", true, Content::Object),
    call("s3", "PutObject", false, Content::Object),
    call("s3", "HeadObject", true, Content::Object),
    call("lambda", "Invoke", false, Content::Function),
    call("dynamodb", "GetItem", true, Content::Table),
];

const NETWORK: [Call; 2] =
    [call("s3", "GetObject", true, Content::Object), call("kms", "Decrypt", true, Content::EncryptionContext)];

const SERVICES: [&str; 6] = ["config", "autoscaling", "cloudtrail", "ecs-tasks", "lambda", "ec2"];

const AGENTS: [&str; 6] = [
    "aws-sdk-go-v2/1.39.2 os/linux lang/go#1.25.1 md/GOARCH#amd64 md/GOOS#linux api/ec2#1.254.0",
    "Boto3/1.40.45 md/Botocore#1.40.45 ua/2.1 os/linux#6.1.153 md/arch#x86_64 lang/python#3.12.11 md/pyimpl#CPython",
    "aws-cli/2.31.5 md/awscrt#0.27.6 ua/2.1 os/macos#25.0.0 md/arch#arm64 lang/python#3.13.7 md/command#ec2.describe-instances",
    "APN/1.0 HashiCorp/1.0 Terraform/1.13.3 (+https://www.terraform.io) terraform-provider-aws/6.14.1 aws-sdk-go-v2/1.39.2",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Safari/537.36",
    "AWS Internal",
];

const NAMES: [&str; 8] = ["platform", "orders", "ledger", "reporting", "search", "batch", "web", "audit"];

impl<'a> Event<'a> {
    pub(super) fn new(mut draws: Draws, id: u128, at: i64, account: &'a str, region: &'static str) -> Self {
        let shape = match draws.below(1000) {
            0..860 => Shape::Management,
            860..880 => Shape::ConsoleSignIn,
            880..980 => Shape::Data,
            980..995 => Shape::NetworkActivity,
            _ => Shape::Insight,
        };
        Self { draws, id, at, account, region, shape }
    }

    /// The event's `eventCategory`.
    pub(super) fn category(&self) -> &'static str {
        match self.shape {
            Shape::Management | Shape::ConsoleSignIn => "Management",
            Shape::Data => "Data",
            Shape::NetworkActivity => "NetworkActivity",
            Shape::Insight => "Insight",
        }
    }

    /// Appends the event as one JSON object.
    pub(super) fn write(mut self, out: &mut String) {
        match self.shape {
            Shape::Insight => self.insight(out),
            Shape::ConsoleSignIn => self.console_sign_in(out),
            Shape::Management => {
                let call = self.draws.pick(&MANAGEMENT);
                self.api_call(out, call);
            }
            Shape::Data => {
                let call = self.draws.pick(&DATA);
                self.api_call(out, call);
            }
            Shape::NetworkActivity => {
                let call = self.draws.pick(&NETWORK);
                self.api_call(out, call);
            }
        }
    }

    fn api_call(&mut self, out: &mut String, call: Call) {
        put(out, &["{\"eventVersion\":\"", self.draws.pick(&["1.08", "1.09", "1.11"]), "\",\"userIdentity\":"]);
        let service = self.identity(out, matches!(call.content, Content::AssumedRole));
        self.when_and_what(out, call.service, call.name);
        self.origin(out, service);
        if self.shape == Shape::NetworkActivity {
            out.push_str("\"errorCode\":\"VpceAccessDenied\",\"errorMessage\":\"The request was denied due to a VPC endpoint policy\",");
        } else if self.draws.percent(3) {
            put(
                out,
                &[
                    "\"errorCode\":\"AccessDenied\",\"errorMessage\":\"User is not authorized to perform: ",
                    call.service,
                    ":",
                    call.name,
                    " because no identity-based policy allows the action\",",
                ],
            );
        }
        self.content(out, call);
        out.push_str("\"requestID\":\"");
        push_uuid(out, self.draws.uuid());
        out.push_str("\",\"eventID\":\"");
        push_uuid(out, self.id);
        put(out, &["\",\"readOnly\":", boolean(call.read_only), ","]);
        self.resources(out, call);
        let event_type = if self.shape == Shape::NetworkActivity { "AwsVpceEvent" } else { "AwsApiCall" };
        put(
            out,
            &["\"eventType\":\"", event_type, "\",\"managementEvent\":", boolean(self.shape == Shape::Management)],
        );
        if self.shape == Shape::NetworkActivity || self.draws.percent(5) {
            out.push_str(",\"vpcEndpointId\":\"vpce-");
            self.draws.push_hex(out, 17);
            put(out, &["\",\"vpcEndpointAccountId\":\"", self.account, "\""]);
        }
        self.recipient(out);
        if service.is_some() {
            out.push_str(",\"sharedEventID\":\"");
            push_uuid(out, self.draws.uuid());
            out.push('"');
        } else {
            put(
                out,
                &[
                    ",\"tlsDetails\":{\"tlsVersion\":\"TLSv1.3\",\"cipherSuite\":\"TLS_AES_128_GCM_SHA256\",",
                    "\"clientProvidedHostHeader\":\"",
                    call.service,
                    ".",
                    self.region,
                    ".amazonaws.com\"}",
                ],
            );
        }
        out.push('}');
    }

    fn console_sign_in(&mut self, out: &mut String) {
        out.push_str("{\"eventVersion\":\"1.08\",\"userIdentity\":{\"type\":\"IAMUser\",\"principalId\":\"AIDA");
        self.draws.push_capitals_and_digits(out, 17);
        let name = self.draws.pick(&NAMES);
        put(
            out,
            &[
                "\",\"arn\":\"arn:aws:iam::",
                self.account,
                ":user/",
                name,
                "\",\"accountId\":\"",
                self.account,
                "\",\"userName\":\"",
                name,
                "\"}",
            ],
        );
        self.when_and_what(out, "signin", "ConsoleLogin");
        self.origin(out, None);
        put(
            out,
            &[
                "\"requestParameters\":null,\"responseElements\":{\"ConsoleLogin\":\"Success\"},\"additionalEventData\":{",
                "\"LoginTo\":\"https://console.aws.amazon.com/console/home?hashArgs=%23&isauthcode=true&state=hashArgsFromTB_",
                self.region,
                "\",\"MobileVersion\":\"No\",\"MFAUsed\":\"Yes\"},\"eventID\":\"",
            ],
        );
        push_uuid(out, self.id);
        out.push_str("\",\"readOnly\":false,\"eventType\":\"AwsConsoleSignIn\",\"managementEvent\":true");
        self.recipient(out);
        put(
            out,
            &[
                ",\"tlsDetails\":{\"tlsVersion\":\"TLSv1.3\",\"cipherSuite\":\"TLS_AES_128_GCM_SHA256\",",
                "\"clientProvidedHostHeader\":\"signin.aws.amazon.com\"}}",
            ],
        );
    }

    /// An Insight event has no `eventName`, no `userIdentity` and no `eventSource` of its own.
    fn insight(&mut self, out: &mut String) {
        let call = self.draws.pick(&MANAGEMENT);
        out.push_str("{\"eventVersion\":\"1.08\",\"eventTime\":\"");
        push_instant(out, self.at);
        put(out, &["\",\"awsRegion\":\"", self.region, "\",\"eventID\":\""]);
        push_uuid(out, self.id);
        put(
            out,
            &[
                "\",\"eventType\":\"AwsCloudTrailInsight\",\"recipientAccountId\":\"",
                self.account,
                "\",\"sharedEventID\":\"",
            ],
        );
        push_uuid(out, self.draws.uuid());
        put(
            out,
            &[
                "\",\"insightDetails\":{\"state\":\"",
                self.draws.pick(&["Start", "End"]),
                "\",\"eventSource\":\"",
                call.service,
                ".amazonaws.com\",\"eventName\":\"",
                call.name,
                "\",\"insightType\":\"ApiCallRateInsight\",\"insightContext\":{",
                "\"statistics\":{\"baseline\":{\"average\":8.82145e-05},\"insight\":{\"average\":0.6},\"insightDuration\":5,",
                "\"baselineDuration\":11336},\"attributions\":[{\"attribute\":\"userIdentityArn\",\"insight\":[{\"value\":\"",
            ],
        );
        self.role_arn(out);
        out.push_str("\",\"average\":0.4},{\"value\":\"");
        self.role_arn(out);
        out.push_str("\",\"average\":0.2}],\"baseline\":[{\"value\":\"");
        self.role_arn(out);
        out.push_str("\",\"average\":8.82145e-05}]}]}},\"eventCategory\":\"Insight\"}");
    }

    /// Appends the `userIdentity`; gives the service that called, if one did.
    fn identity(&mut self, out: &mut String, by_service: bool) -> Option<&'static str> {
        let kind = self.draws.below(100);
        if by_service || kind < 18 {
            let service = self.draws.pick(&SERVICES);
            put(out, &["{\"type\":\"AWSService\",\"invokedBy\":\"", service, ".amazonaws.com\"}"]);
            return Some(service);
        }
        if kind < 34 {
            let name = self.draws.pick(&NAMES);
            out.push_str("{\"type\":\"IAMUser\",\"principalId\":\"AIDA");
            self.draws.push_capitals_and_digits(out, 17);
            put(
                out,
                &["\",\"arn\":\"arn:aws:iam::", self.account, ":user/", name, "\",\"accountId\":\"", self.account],
            );
            out.push_str("\",\"accessKeyId\":\"AKIA");
            self.draws.push_capitals_and_digits(out, 16);
            put(out, &["\",\"userName\":\"", name, "\"}"]);
            return None;
        }
        let mut principal = String::with_capacity(21);
        principal.push_str("AROA");
        self.draws.push_capitals_and_digits(&mut principal, 17);
        let name = self.draws.pick(&NAMES);
        put(
            out,
            &[
                "{\"type\":\"AssumedRole\",\"principalId\":\"",
                &principal,
                ":",
                name,
                "-session\",\"arn\":\"arn:aws:sts::",
                self.account,
                ":assumed-role/",
                name,
                "-role/",
                name,
                "-session\",\"accountId\":\"",
                self.account,
                "\",\"accessKeyId\":\"ASIA",
            ],
        );
        self.draws.push_capitals_and_digits(out, 16);
        put(
            out,
            &[
                "\",\"sessionContext\":{\"sessionIssuer\":{\"type\":\"Role\",\"principalId\":\"",
                &principal,
                "\",\"arn\":\"arn:aws:iam::",
                self.account,
                ":role/",
                name,
                "-role\",\"accountId\":\"",
                self.account,
                "\",\"userName\":\"",
                name,
                "-role\"},\"attributes\":{\"creationDate\":\"",
            ],
        );
        push_instant(out, self.at.saturating_sub_unsigned(self.draws.below(3600)).max(0));
        put(out, &["\",\"mfaAuthenticated\":\"", boolean(self.draws.percent(30)), "\"}}}"]);
        None
    }

    fn when_and_what(&mut self, out: &mut String, service: &str, name: &str) {
        out.push_str(",\"eventTime\":\"");
        push_instant(out, self.at);
        put(
            out,
            &[
                "\",\"eventSource\":\"",
                service,
                ".amazonaws.com\",\"eventName\":\"",
                name,
                "\",\"awsRegion\":\"",
                self.region,
                "\",",
            ],
        );
    }

    fn origin(&mut self, out: &mut String, service: Option<&str>) {
        if let Some(service) = service {
            put(
                out,
                &["\"sourceIPAddress\":\"", service, ".amazonaws.com\",\"userAgent\":\"", service, ".amazonaws.com\","],
            );
            return;
        }
        // 198.51.100.0/24 is for documentation (RFC 5737).
        let host = self.draws.below(256).to_string();
        put(out, &["\"sourceIPAddress\":\"198.51.100.", &host, "\",\"userAgent\":\"", self.draws.pick(&AGENTS), "\","]);
    }

    fn content(&mut self, out: &mut String, call: Call) {
        out.push_str("\"requestParameters\":");
        match call.content {
            Content::Instances => {
                // Mostly a few, at times many; one in 900 of these gives an event of about 31 kB.
                let count = match self.draws.below(900) {
                    0 => 810,
                    1..60 => 10 + self.draws.below(50),
                    _ => self.draws.below(8),
                };
                out.push_str("{\"instancesSet\":{\"items\":[");
                for n in 0..count {
                    out.push_str(if n == 0 { "{\"instanceId\":\"i-0" } else { ",{\"instanceId\":\"i-0" });
                    self.draws.push_hex(out, 16);
                    out.push_str("\"}");
                }
                out.push_str("]},\"filterSet\":{}},\"responseElements\":null,");
            }
            Content::AssumedRole => {
                out.push_str("{\"roleArn\":\"");
                self.role_arn(out);
                put(
                    out,
                    &["\",\"roleSessionName\":\"", self.draws.pick(&NAMES), "-session\",\"durationSeconds\":3600}"],
                );
                out.push_str(",\"responseElements\":{\"credentials\":{\"accessKeyId\":\"ASIA");
                self.draws.push_capitals_and_digits(out, 16);
                out.push_str("\",\"sessionToken\":\"");
                let length = 60 + self.draws.below(200);
                self.draws.push_letters_and_digits(out, usize::try_from(length).expect("below 260"));
                out.push_str("\",\"expiration\":\"");
                push_instant(out, self.at + 3600);
                out.push_str("\"},\"assumedRoleUser\":{\"assumedRoleId\":\"AROA");
                self.draws.push_capitals_and_digits(out, 17);
                out.push_str("\",\"arn\":\"");
                self.role_arn(out);
                out.push_str("\"}},");
            }
            Content::EncryptionContext => {
                put(
                    out,
                    &[
                        "{\"encryptionContext\":{\"aws:lambda:FunctionArn\":\"arn:aws:lambda:",
                        self.region,
                        ":",
                        self.account,
                        ":function:",
                        self.draws.pick(&NAMES),
                        "\"},\"encryptionAlgorithm\":\"SYMMETRIC_DEFAULT\"}",
                    ],
                );
                out.push_str(",\"responseElements\":null,");
            }
            Content::LogStream => {
                put(out, &["{\"logGroupName\":\"/aws/lambda/", self.draws.pick(&NAMES), "\",\"logStreamName\":\""]);
                push_instant(out, self.at);
                out.push_str("/[$LATEST]");
                self.draws.push_hex(out, 32);
                out.push_str("\"},\"responseElements\":null,");
            }
            Content::Bucket | Content::Object => {
                put(
                    out,
                    &[
                        "{\"bucketName\":\"",
                        self.account,
                        "-",
                        self.draws.pick(&NAMES),
                        "\",\"Host\":\"s3.",
                        self.region,
                    ],
                );
                out.push_str(".amazonaws.com\"");
                if matches!(call.content, Content::Object) {
                    out.push_str(",\"key\":\"informes/año-2026/");
                    self.draws.push_hex(out, 32);
                    out.push_str(".parquet\"");
                }
                out.push_str("},\"responseElements\":null,\"additionalEventData\":{\"SignatureVersion\":\"SigV4\",\"CipherSuite\":");
                out.push_str("\"TLS_AES_128_GCM_SHA256\",\"bytesTransferredIn\":0,\"AuthenticationMethod\":\"AuthHeader\",\"x-amz-id-2\":\"");
                self.draws.push_letters_and_digits(out, 76);
                out.push_str("\",\"bytesTransferredOut\":");
                out.push_str(&self.draws.below(1_000_000).to_string());
                out.push_str("},");
            }
            Content::Role => {
                put(out, &["{\"roleName\":\"", self.draws.pick(&NAMES), "-role\"},\"responseElements\":null,"]);
            }
            Content::Function => {
                let name = self.draws.pick(&NAMES);
                put(
                    out,
                    &["{\"functionName\":\"arn:aws:lambda:", self.region, ":", self.account, ":function:", name, "\"}"],
                );
                if call.read_only {
                    out.push_str(",\"responseElements\":null,");
                } else {
                    put(
                        out,
                        &[
                            ",\"responseElements\":{\"functionName\":\"",
                            name,
                            "\",\"runtime\":\"provided.al2023\",\"handler\":",
                            "\"bootstrap\",\"timeout\":60,\"memorySize\":512,\"description\":\"\",\"state\":\"Active\",\"codeSha256\":\"",
                        ],
                    );
                    self.draws.push_letters_and_digits(out, 43);
                    out.push_str("=\"},");
                }
            }
            Content::Alarm => {
                put(
                    out,
                    &[
                        "{\"alarmName\":\"",
                        self.draws.pick(&NAMES),
                        "-errors\",\"namespace\":\"AWS/Lambda\",\"metricName\":\"Errors\",",
                        "\"dimensions\":[{\"name\":\"FunctionName\",\"value\":\"",
                        self.draws.pick(&NAMES),
                        "\"}],\"threshold\":1.0,",
                        "\"comparisonOperator\":\"GreaterThanOrEqualToThreshold\",\"evaluationPeriods\":1,\"period\":300},",
                        "\"responseElements\":null,",
                    ],
                );
            }
            Content::Table => {
                put(out, &["{\"tableName\":\"", self.draws.pick(&NAMES), "\"},\"responseElements\":null,"]);
            }
            Content::Nothing => out.push_str("null,\"responseElements\":null,"),
        }
    }

    fn resources(&mut self, out: &mut String, call: Call) {
        let (kind, arn) = match call.content {
            Content::Bucket | Content::Object => ("AWS::S3::Bucket", "arn:aws:s3:::"),
            Content::EncryptionContext => ("AWS::KMS::Key", "arn:aws:kms:"),
            Content::AssumedRole => ("AWS::IAM::Role", "arn:aws:iam::"),
            _ => return,
        };
        put(
            out,
            &[
                "\"resources\":[{\"accountId\":\"",
                self.account,
                "\",\"type\":\"",
                kind,
                "\",\"ARN\":\"",
                arn,
                self.region,
                ":",
                self.account,
                ":",
            ],
        );
        self.draws.push_hex(out, 12);
        out.push_str("\"}],");
    }

    fn recipient(&mut self, out: &mut String) {
        put(out, &[",\"recipientAccountId\":\"", self.account, "\",\"eventCategory\":\"", self.category(), "\""]);
    }

    fn role_arn(&mut self, out: &mut String) {
        put(out, &["arn:aws:iam::", self.account, ":role/", self.draws.pick(&NAMES), "-role"]);
    }
}

fn put(out: &mut String, parts: &[&str]) {
    parts.iter().for_each(|part| out.push_str(part));
}

fn boolean(value: bool) -> &'static str {
    if value { "true" } else { "false" }
}
