"""The HTTP front: REST, server-sent events, Open Inference REST and the OpenAI forms, in a process of its own.

It knows HTTP and JSON and nothing of models, keys or quotas: every call goes on to the gateway, with the credential
that came with it, and the gateway decides.
"""
