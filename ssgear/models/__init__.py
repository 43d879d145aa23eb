"""Networks: encoders over timm (`encoders`, `networks`) and the heads on top of them (`heads`)."""
