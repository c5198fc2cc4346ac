COPY ledger_batch (
    tenant_id, id, admitted_us, ended_us, subject, request_id, kind, model, version, runner_id, device_type, status,
    error_reason, total_us, queue_us, execution_us, input_bytes, output_bytes, prompt_tokens, completion_tokens,
    device_ms, attempts, calls
) FROM STDIN
