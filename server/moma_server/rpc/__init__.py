"""What every gRPC port shares: TLS, authorization, limits, errors."""
