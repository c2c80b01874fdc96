"""What a masked evaluation, a layer call and the values cost."""
